"""The garbage collector, kept out of the way of bulk work.

Making a hundred thousand segments from a snapshot makes a million objects, none of them
garbage; the collector looks at all of them again and again and takes three quarters of the time.
Afterwards they live as long as their container, and each full collection would stop the event
loop to look at all of them: so they are frozen, out of the collector's sight, until a container
ends here.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

THRESHOLDS: Final = 50_000, 20, 50
"""Of the three generations. An append makes a handful of objects and leaves no cycle behind."""


class Freezer:
    """Freezes what open containers have made. One per process."""

    def __init__(self) -> None:
        self._may_hold_garbage = False

    def opened(self) -> None:
        """A container was opened: its state is here to stay."""
        if self._may_hold_garbage:
            gc.collect()
            self._may_hold_garbage = False
        gc.freeze()

    def ended(self) -> None:
        """A container ended: its state is a cycle of garbage among what was frozen."""
        gc.unfreeze()
        self._may_hold_garbage = True


@contextmanager
def paused() -> Iterator[None]:
    """No automatic collections inside, if there were any before."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
