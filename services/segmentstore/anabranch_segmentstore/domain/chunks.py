"""The container's book of tier-2 objects: intended, referenced, and condemned names.

A name is *intended* before any worker hears of it, and only an intended name can be journalled
as a chunk (architecture, "Tierer"). A journalled object lives as long as an extent of a segment
refers to it; then, or when its name is voided, it is *condemned*: to be deleted, and remembered
until the deletion is in the hands of the bus.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from anabranch_segmentstore.domain.operations import ChunkIntended


@dataclass(slots=True)
class ChunkLedger:
    intended: dict[str, ChunkIntended] = field(default_factory=dict)
    references: dict[str, int] = field(default_factory=dict)
    condemned: dict[str, None] = field(default_factory=dict)  # a set that keeps its order

    def intend(self, operation: ChunkIntended) -> None:
        assert operation.object_name not in self.intended, "an object name used twice"
        self.intended[operation.object_name] = operation

    def journal(self, object_name: str) -> ChunkIntended:
        """Take a name out of the intended set; its references follow."""
        return self.intended.pop(object_name)

    def void(self, object_name: str, *, is_ours: bool) -> None:
        del self.intended[object_name]
        if is_ours:
            self.condemned[object_name] = None

    def refer(self, object_name: str) -> None:
        self.references[object_name] = self.references.get(object_name, 0) + 1

    def drop(self, object_name: str) -> None:
        remaining = self.references[object_name] - 1
        if remaining:
            self.references[object_name] = remaining
        else:
            del self.references[object_name]
            self.condemned[object_name] = None

    def condemn_if_unused(self, object_name: str) -> None:
        if object_name not in self.references:
            self.condemned[object_name] = None

    def release(self, object_names: Iterable[str]) -> None:
        for name in object_names:
            self.condemned.pop(name, None)
