"""The real adapters of the controller's ports."""
