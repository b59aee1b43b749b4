"""Settings, clock, logging and the ports to NATS, Redis and object stores, with their adapters."""
