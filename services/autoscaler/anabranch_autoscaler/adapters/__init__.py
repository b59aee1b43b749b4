"""What connects the rules to the cluster."""
