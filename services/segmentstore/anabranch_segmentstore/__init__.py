"""The data plane: appends, reads and table segments over a write-ahead log."""
