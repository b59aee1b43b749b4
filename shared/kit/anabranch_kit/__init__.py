"""Settings, clock, logging and the ports to NATS, Redis and object stores, with their adapters."""

from anabranch_kit import lean_imports as lean_imports
