"""The controller's gRPC contract: generated stubs and the mapping of statuses."""
