"""Pravega's segment store wire protocol, sans-IO, with names, key ranges and hashes."""
