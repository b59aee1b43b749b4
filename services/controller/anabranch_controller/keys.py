"""What work can be about: one key for each aggregate, and one for each reservation."""

from __future__ import annotations

from typing import NamedTuple

from anabranch_events import subjects

from anabranch_controller.domain.scope import Kind


class ScopeKey(NamedTuple):
    scope: str

    @property
    def subject(self) -> str:
        return subjects.scope_events(self.scope)


class StreamKey(NamedTuple):
    scope: str
    stream: str

    @property
    def subject(self) -> str:
        return subjects.stream_events(self.scope, self.stream)


class TransactionKey(NamedTuple):
    scope: str
    stream: str
    transaction: str

    @property
    def subject(self) -> str:
        return subjects.transaction_events(self.scope, self.stream, self.transaction)

    @property
    def stream_key(self) -> StreamKey:
        return StreamKey(self.scope, self.stream)


class GroupKey(NamedTuple):
    """The marker keeps it from comparing equal to a StreamKey of the same name."""

    scope: str
    group: str
    marker: str = "group"

    @property
    def subject(self) -> str:
        return subjects.reader_group_events(self.scope, self.group)


class TableKey(NamedTuple):
    scope: str
    table: str
    marker: str = "table"

    @property
    def subject(self) -> str:
        return subjects.table_events(self.scope, self.table)


class ReservationKey(NamedTuple):
    """A name in a scope's directory whose thing is not there, or not there any more."""

    scope: str
    kind: Kind
    name: str
    marker: str = "reservation"

    @property
    def subject(self) -> str:
        return subjects.scope_events(self.scope)


Key = ScopeKey | StreamKey | TransactionKey | GroupKey | TableKey | ReservationKey
