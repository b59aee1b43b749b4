"""The controller's events in words, for `anabranch history`. Pure.

A segment is written `<epoch of creation>.<number> [low, high)`, as the autoscaler writes it in
its reasons. `SENTENCES` has an entry for each domain event; a test sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from anabranch_events import domain
from anabranch_events.model import GroupConfig, SegmentRange, StreamConfig, TableConfig

SEGMENTS_LISTED_MAX: Final = 8
TIMESTAMP_NONE: Final = -(2**63)

Sentence = Callable[[Any], str]


def sentence(event: domain.DomainEvent) -> str:
    """What happened, as one sentence without its subject and its full stop."""
    tell = SENTENCES.get(type(event))
    return repr(event) if tell is None else tell(event)


def cause(event: domain.DomainEvent) -> str:
    """Why it happened, where the event says so; else nothing."""
    found = getattr(event, "cause", "")
    return str(found)


def moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


# --- parts of sentences ------------------------------------------------------------------


def _segment(segment: SegmentRange) -> str:
    return f"{segment.epoch}.{segment.number} [{segment.low:.4g}, {segment.high:.4g})"


def _segments(segments: Iterable[SegmentRange]) -> str:
    return _listed([_segment(one) for one in sorted(segments, key=lambda one: one.low)])


def _cut(cut: Iterable[tuple[int, int]]) -> str:
    return _listed([f"{_id(segment)} at {offset}" for segment, offset in sorted(cut)])


def _sizes(sizes: Iterable[tuple[int, int]]) -> str:
    return _listed([f"{_id(segment)} with {size} bytes" for segment, size in sorted(sizes)])


def _id(segment: int) -> str:
    return f"{segment >> 32}.{segment & 0xFFFFFFFF}"


def _listed(parts: list[str]) -> str:
    if not parts:
        return "none"
    shown = ", ".join(parts[:SEGMENTS_LISTED_MAX])
    more = len(parts) - SEGMENTS_LISTED_MAX
    return shown if more <= 0 else f"{shown} and {more} more"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _config(config: StreamConfig) -> str:
    scaling = config.scaling
    if scaling.scale_type == "fixed":
        parts = [f"{_count(scaling.min_segments, 'segment')}, fixed"]
    else:
        unit = "KB/s" if scaling.scale_type == "kbytes_per_sec" else "events/s"
        least = f"at least {_count(scaling.min_segments, 'segment')}"
        parts = [f"scaling at {scaling.target_rate} {unit} per segment, {least}"]
    if config.retention is not None:
        unit = "bytes" if config.retention.retention_type == "size" else "ms"
        parts.append(f"retention by {config.retention.retention_type}, {_limits(config, unit)}")
    if config.tags:
        parts.append(f"tags {', '.join(config.tags)}")
    return "; ".join(parts)


def _limits(config: StreamConfig, unit: str) -> str:
    retention = config.retention
    assert retention is not None, "asked for a stream that has retention"
    if retention.maximum == 2**63 - 1:
        return f"at least {retention.minimum} {unit}"
    return f"{retention.minimum} to {retention.maximum} {unit}"


def _group(config: GroupConfig) -> str:
    streams = _listed(sorted({*config.starting_cuts, *config.ending_cuts}))
    return f"reading {streams}, generation {config.generation}, retention {config.retention}"


def _table(config: TableConfig) -> str:
    keys = f"keys of {config.primary_key_length} + {config.secondary_key_length} bytes"
    return f"{_count(config.partitions_count, 'partition')}, {keys}"


def _rates(event: domain.ScaleStarted) -> str:
    if event.observed_rate == 0 and event.target_rate == 0:
        return ""
    return f" (measured {event.observed_rate:.4g}, target {event.target_rate:.4g})"


# --- sentences ---------------------------------------------------------------------------


def _scale_started(event: domain.ScaleStarted) -> str:
    why = f": {event.reason}" if event.reason else ""
    return (
        f"began to scale to epoch {event.new_epoch}: {_segments(event.sealed)}"
        f" gives way to {_segments(event.created)}; cause {event.cause}{why}{_rates(event)}"
    )


def _rolled(event: domain.RollingEpochsAppended) -> str:
    first, second = event.transaction_epoch_copy, event.active_epoch_copy
    return (
        f"added epoch {first.epoch}, a copy of the transactions' epoch"
        f" {first.reference_epoch}, and epoch {second.epoch}, a copy of the active one, because"
        " transactions were committed that began before a scale"
    )


def _transactions(transactions: tuple[str, ...]) -> str:
    return f"{_count(len(transactions), 'transaction')} ({_listed(list(transactions))})"


def _commit_requested(event: domain.TransactionCommitRequested) -> str:
    writer = f" by writer {event.writer}" if event.writer else ""
    time = "" if event.timestamp == TIMESTAMP_NONE else f", its time {event.timestamp}"
    return f"its commit was asked for{writer}{time}"


_ABORT_CAUSES: Final = {
    "timeout": "its lease ran out",
    "request": "a client asked for it",
    "stream-sealed": "its stream is being sealed",
}


def _reserved(kind: str, name: str, rest: str) -> str:
    return f"reserved the name {name} for a {kind}: {rest}"


SENTENCES: Final[dict[type[domain.DomainEvent], Sentence]] = {
    domain.ClusterCreated: lambda e: f"cluster {e.cluster_id}, {e.containers_count} containers",
    domain.StreamCreated: lambda e: f"created with {_segments(e.segments)}; {_config(e.config)}",
    domain.StreamActivated: lambda e: "all its segments exist; clients may use it",
    domain.ScaleStarted: _scale_started,
    domain.EpochAppended: lambda e: (
        f"epoch {e.epoch} exists with {_segments(e.segments)}; {_segments(e.sealed)} is being"
        " sealed"
    ),
    domain.ScaleCompleted: lambda e: (
        f"scaled: epoch {e.epoch} is current; sealed {_sizes(e.sealed_sizes)}"
    ),
    domain.UpdateStarted: lambda e: f"began to change its configuration to {_config(e.config)}",
    domain.UpdateCompleted: lambda e: "its new configuration holds",
    domain.TruncationStarted: lambda e: (
        f"began to truncate to {_cut(e.cut)}; {_count(len(e.to_delete), 'segment')} to delete"
    ),
    domain.TruncationCompleted: lambda e: "truncated",
    domain.CommitStarted: lambda e: (
        f"began to commit {_transactions(e.transactions)} of epoch {e.transaction_epoch}"
        f" into epoch {e.active_epoch}"
    ),
    domain.RollingEpochsAppended: _rolled,
    domain.CommitCompleted: lambda e: f"committed {_transactions(e.transactions)}",
    domain.SealStarted: lambda e: "began to seal",
    domain.StreamSealed: lambda e: f"sealed: {_sizes(e.sealed_sizes)}",
    domain.DeleteStarted: lambda e: "began to delete",
    domain.StreamDeleted: lambda e: (
        f"deleted; segments of a namesake are numbered above {e.last_segment_number}"
    ),
    domain.SubscriberSet: lambda e: (
        f"reader group {e.subscriber}, generation {e.generation}, counts for retention"
    ),
    domain.SubscriberRemoved: lambda e: f"reader group {e.subscriber} counts no more",
    domain.SubscriberCutUpdated: lambda e: (
        f"reader group {e.subscriber} does not need what is before {_cut(e.cut)}"
    ),
    domain.RetentionCutRecorded: lambda e: (
        f"its tail was noted for retention: {_cut(e.cut)}, {e.size_bytes} bytes before it"
    ),
    domain.WriterTimestampNoted: lambda e: (
        f"writer {e.writer} noted its time {e.timestamp} at {_cut(e.position)}"
    ),
    domain.WriterRemoved: lambda e: f"writer {e.writer} is shut down",
    domain.WritersForgotten: lambda e: (
        f"forgot the times of {_count(len(e.writers), 'writer')}: {_listed(list(e.writers))}"
    ),
    domain.WorkTakenOver: lambda e: f"its open work was taken over from {e.silent}",
    domain.ScopeCreated: lambda e: "created",
    domain.StreamReserved: lambda e: _reserved("stream", e.stream, _config(e.config)),
    domain.StreamReleased: lambda e: f"released the name {e.stream} of a stream",
    domain.GroupReserved: lambda e: _reserved("reader group", e.group, _group(e.config)),
    domain.GroupReleased: lambda e: f"released the name {e.group} of a reader group",
    domain.TableReserved: lambda e: _reserved("table", e.table, _table(e.config)),
    domain.TableReleased: lambda e: f"released the name {e.table} of a table",
    domain.ScopeDeletionStarted: lambda e: "began to delete all that is in it",
    domain.ScopeDeleted: lambda e: "deleted",
    domain.TransactionBegun: lambda e: (
        f"transaction {e.transaction} began, lease {e.lease_ms} ms, at most until"
        f" {moment(e.ends_at_most_ms)}"
    ),
    domain.TransactionPinged: lambda e: f"its lease began anew, {e.lease_ms} ms",
    domain.TransactionCommitRequested: _commit_requested,
    domain.TransactionAbortRequested: lambda e: f"began to abort: {_ABORT_CAUSES[e.cause]}",
    domain.TransactionAborted: lambda e: "aborted; its segments are gone",
    domain.GroupCreated: lambda e: f"created, {_group(e.config)}",
    domain.GroupActivated: lambda e: "its stream exists; clients may use it",
    domain.GroupUpdateStarted: lambda e: (
        f"began to change: {_group(e.config)}; leaves {_listed(list(e.unsubscribed))}"
    ),
    domain.GroupUpdateCompleted: lambda e: "its new configuration holds",
    domain.GroupDeletionStarted: lambda e: "began to delete",
    domain.GroupDeleted: lambda e: "deleted",
    domain.TableCreated: lambda e: f"created with {_segments(e.segments)}; {_table(e.config)}",
    domain.TableActivated: lambda e: "all its segments exist; clients may use it",
    domain.TableDeletionStarted: lambda e: "began to delete",
    domain.TableDeleted: lambda e: (
        f"deleted; segments of a namesake are numbered above {e.last_segment_number}"
    ),
    domain.TransactionIdsReserved: lambda e: f"ids {e.first} to {e.end - 1} were given out",
}
