"""Fakes of the kit's ports, in memory and in virtual time, with hooks for faults.

A fault hook is a function `fault(operation, name)` that the fake calls before and after each
operation ("before append", "after append"); it raises what the port may raise, so that a test
decides which call fails and whether its effect happened.
"""

from anabranch_testkit.fakes.bus import MemoryBus
from anabranch_testkit.fakes.clock import FakeClock
from anabranch_testkit.fakes.event_store import MemoryEventStore
from anabranch_testkit.fakes.faults import Fault, no_fault
from anabranch_testkit.fakes.object_store import MemoryObjectStore
from anabranch_testkit.fakes.registry import MemoryRegistry

__all__ = [
    "FakeClock",
    "Fault",
    "MemoryBus",
    "MemoryEventStore",
    "MemoryObjectStore",
    "MemoryRegistry",
    "no_fault",
]
