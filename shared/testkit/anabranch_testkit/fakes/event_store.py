"""The event log in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from anabranch_events import subjects
from anabranch_kit.ports.event_store import EventStoreUnavailable, Record, SequenceConflict

from anabranch_testkit.fakes.bus import matches
from anabranch_testkit.fakes.faults import Fault, no_fault

ATTEMPTS_MAX = 3


class MemoryEventStore:
    """EventStore shared by all who hold it.

    A fault raised "after append" is a lost acknowledgement: the message is stored, and the
    store finds its own success by the batch id when it tries again, as the real one does.
    """

    def __init__(self, *, fault: Fault = no_fault) -> None:
        self.fault = fault
        self.records: list[Record] = []
        self._batch_ids: dict[int, str] = {}
        self._sequence = 0
        self._grown = asyncio.Event()

    async def provision(self) -> None:
        """Nothing to provision; the real one makes its stream."""

    async def append(
        self, subject: str, payload: bytes, *, expected_sequence: int, batch_id: str
    ) -> int:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                self.fault("before append", subject)
                sequence = self._append(subject, payload, expected_sequence, batch_id)
                self.fault("after append", subject)
            except EventStoreUnavailable:
                if attempt == ATTEMPTS_MAX:
                    raise
                await asyncio.sleep(0)
            else:
                return sequence
        raise AssertionError("the last attempt returns or raises")

    async def last_sequence(self, subject: str) -> int:
        self.fault("before last_sequence", subject)
        return self._last(subject)

    async def end(self) -> int:
        self.fault("before end", "")
        return self._sequence

    async def follow(self, *, after: int = 0, subject: str = "") -> AsyncIterator[Record]:
        position = after
        while True:
            grown = self._grown
            for record in [one for one in self.records if one.sequence > position]:
                position = record.sequence
                if not subject or matches(subject, record.subject):
                    yield record
            if grown is self._grown:  # nothing came while the records were handed out
                await grown.wait()

    async def barrier(self, instance: str) -> int:
        self.fault("before barrier", instance)
        subject = subjects.barrier(instance)
        self.records = [record for record in self.records if record.subject != subject]
        return self._store(subject, b"")

    def _append(self, subject: str, payload: bytes, expected: int, batch_id: str) -> int:
        later = [one for one in self.records if one.subject == subject and one.sequence > expected]
        if later and self._batch_ids.get(later[0].sequence) == batch_id:
            return later[0].sequence
        if self._last(subject) != expected:
            raise SequenceConflict(subject, expected)
        sequence = self._store(subject, payload)
        self._batch_ids[sequence] = batch_id
        return sequence

    def _store(self, subject: str, payload: bytes) -> int:
        self._sequence += 1
        self.records.append(Record(self._sequence, subject, payload))
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()
        return self._sequence

    def _last(self, subject: str) -> int:
        return max((one.sequence for one in self.records if one.subject == subject), default=0)
