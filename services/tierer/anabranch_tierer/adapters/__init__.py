"""The tierer's way to NATS and to the segment stores."""
