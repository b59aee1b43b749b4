"""The calls of the api: load, decide, append, and wait for the end where the call says so."""
