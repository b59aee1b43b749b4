"""The garbage collector, kept out of the way of bulk work.

Making a hundred thousand segments from a snapshot makes a million objects, none of them
garbage; the collector looks at all of them again and again and takes three quarters of the time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
