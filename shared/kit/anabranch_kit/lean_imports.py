"""Loads nats-py and structlog without the large libraries that they take up when they can.

nats-py imports aiohttp for WebSockets and structlog imports rich for tracebacks on a terminal;
both do without when it is missing, and no service uses either. Left alone they cost each
process 11 MB and a quarter of its start, and a service that was killed is away for as long as
its start takes. The package imports this first, and a service's `__main__` the package.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(library: str) -> Iterator[None]:
    """Let imports of `library` fail meanwhile, as if it were not installed."""
    if library in sys.modules:
        yield  # somebody has loaded it: nothing is saved by hiding it
        return
    sys.modules[library] = None  # type: ignore[assignment]  # the import system's own way
    try:
        yield
    finally:
        del sys.modules[library]


with without("aiohttp"):
    importlib.import_module("nats")
with without("rich"):
    importlib.import_module("structlog")
