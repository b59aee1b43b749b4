"""Adapters of the segment store's ports."""
