"""Moves ranges of segments from tier 1 to immutable objects in tier 2."""
