"""Turns load reports into scale decisions, each with its reason."""
