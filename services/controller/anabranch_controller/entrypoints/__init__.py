"""The ways in: gRPC for clients, REST for people, the bus for the autoscaler."""
