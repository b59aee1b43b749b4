"""The hook by which a test makes a fake fail."""

from __future__ import annotations

from collections.abc import Callable

# Called with "before append", "after append"… and the subject or name it is about.
Fault = Callable[[str, str], None]


def no_fault(_moment: str, _name: str) -> None:
    """Nothing goes wrong."""
