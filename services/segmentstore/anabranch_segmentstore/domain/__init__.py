"""The rules of a segment container: pure, without IO, clock or randomness."""
