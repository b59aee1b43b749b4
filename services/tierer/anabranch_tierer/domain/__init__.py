"""What the tierer decides, without doing it."""
