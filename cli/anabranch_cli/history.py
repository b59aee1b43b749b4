"""`anabranch history …`: what ever happened to a thing, from the controller's event log.

The event log is the controller's only truth and is read as it is, from NATS, so this works
while no controller runs. A row is one event; the events of one decision share a sequence.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from anabranch_cli.addresses import ClusterOption, NatsOption, address
from anabranch_cli.output import ExitCode, Format, FormatOption, Problem, Row, emit

if TYPE_CHECKING:
    from anabranch_events.domain import Batch, DomainEvent
    from anabranch_kit.ports.event_store import EventStore, Record

CONNECT_WAIT_S: Final = 1.0
TABLE_COLUMNS: Final = ("time", "epoch", "event", "cause", "by", "what")
BY_LENGTH: Final = 8  # of the 32 digits of an instance's incarnation

history_app = typer.Typer(
    help="Show what ever happened to a stream, scope, transaction, reader group or table.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@history_app.callback()
def history() -> None:
    """Show what ever happened to a stream, scope, transaction, reader group or table."""


@history_app.command()
def stream(
    name: Annotated[str, typer.Argument(metavar="SCOPE/STREAM")],
    transactions: Annotated[
        bool, typer.Option("--transactions", help="Also the life of each transaction.")
    ] = False,
    nats: NatsOption = None,
    cluster: ClusterOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """What ever happened to a stream, with its namesakes before it."""
    from anabranch_events import subjects

    scope, thing = _pair(name, "SCOPE/STREAM")
    own = subjects.stream_events(scope, thing)
    further = (subjects.transaction_events(scope, thing, ">"),) if transactions else ()
    _show(f"stream {name}", own, further, nats=nats, cluster=cluster, output=output)


@history_app.command()
def scope(
    name: Annotated[str, typer.Argument(metavar="SCOPE")],
    nats: NatsOption = None,
    cluster: ClusterOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """What ever happened to a scope and to the names in it."""
    from anabranch_events import subjects

    _checked(name, "SCOPE")
    own = subjects.scope_events(name)
    _show(f"scope {name}", own, (), nats=nats, cluster=cluster, output=output)


@history_app.command()
def transaction(
    name: Annotated[str, typer.Argument(metavar="SCOPE/STREAM")],
    identity: Annotated[
        str, typer.Argument(metavar="TRANSACTION", help="32 hex digits; hyphens are ignored.")
    ],
    nats: NatsOption = None,
    cluster: ClusterOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """What ever happened to a transaction, its commit by the stream included."""
    from anabranch_events import domain, subjects

    scope, thing = _pair(name, "SCOPE/STREAM")
    digits = identity.replace("-", "").lower()
    if len(digits) != 32 or not set(digits) <= set("0123456789abcdef"):
        raise Problem(
            f"{identity} is no transaction id", hint="give 32 hex digits", code=ExitCode.USAGE
        )

    own = subjects.transaction_events(scope, thing, digits)

    def concerns(subject: str, event: DomainEvent) -> bool:
        if isinstance(event, domain.CommitStarted | domain.CommitCompleted):
            return digits in event.transactions
        return subject == own

    _show(
        f"transaction {identity} of stream {name}",
        own,
        (subjects.stream_events(scope, thing),),
        concerns=concerns,
        nats=nats,
        cluster=cluster,
        output=output,
    )


@history_app.command()
def group(
    name: Annotated[str, typer.Argument(metavar="SCOPE/GROUP")],
    nats: NatsOption = None,
    cluster: ClusterOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """What ever happened to a reader group."""
    from anabranch_events import subjects

    own = subjects.reader_group_events(*_pair(name, "SCOPE/GROUP"))
    _show(f"reader group {name}", own, (), nats=nats, cluster=cluster, output=output)


@history_app.command()
def table(
    name: Annotated[str, typer.Argument(metavar="SCOPE/TABLE")],
    nats: NatsOption = None,
    cluster: ClusterOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """What ever happened to a key-value table."""
    from anabranch_events import subjects

    own = subjects.table_events(*_pair(name, "SCOPE/TABLE"))
    _show(f"table {name}", own, (), nats=nats, cluster=cluster, output=output)


def _pair(name: str, form: str) -> tuple[str, str]:
    scope, _, thing = name.partition("/")
    return _checked(scope, form), _checked(thing, form)


def _checked(name: str, form: str) -> str:
    """Wildcards of NATS in a name would read the history of others."""
    if not name or set(name) & set("*> /~\t\r\n"):
        raise Problem(f"{name!r} is no name", hint=f"give {form}", code=ExitCode.USAGE)
    return name


# --- reading -----------------------------------------------------------------------------

Concerns: TypeAlias = "Callable[[str, DomainEvent], bool]"
"""Whether an event on a subject is part of the history."""


def _all(subject: str, event: DomainEvent) -> bool:
    return True


def _show(
    what: str,
    own: str,
    further: tuple[str, ...],
    *,
    concerns: Concerns = _all,
    nats: str | None,
    cluster: Path | None,
    output: Format,
) -> None:
    url = address("nats", flag=nats, cluster=cluster)
    records = asyncio.run(_read(url, what, own, further))
    rows = list(Teller(own, concerns).rows(records))
    if output is Format.TABLE:
        emit([_short(row) for row in rows], output)
    else:
        emit(rows, output)


def _short(row: Row) -> Row:
    """What fits beside each other on a screen."""
    by = row["by"]
    return {column: row[column] for column in TABLE_COLUMNS} | {
        "by": by[:BY_LENGTH] if isinstance(by, str) else by
    }


async def _read(url: str, what: str, own: str, further: tuple[str, ...]) -> list[Record]:
    """All records of these subjects, in order. Raises Problem."""
    from anabranch_kit.ports.event_store import EventStoreUnavailable

    async with _event_store(url) as store:
        try:
            records = [record async for record in _until_now(store, own)]
            if not records:
                raise Problem(
                    f"nothing ever happened to {what}",
                    hint="is the name right, and is this the NATS of the cluster?",
                    code=ExitCode.NOT_FOUND,
                )
            for subject in further:
                records += [record async for record in _until_now(store, subject)]
        except EventStoreUnavailable as error:
            raise Problem(
                f"the event log at {url} cannot be read: {error.reason}",
                hint="is this the NATS of the cluster, and is JetStream up?",
                code=ExitCode.UNREACHABLE,
            ) from error
    return sorted(records, key=lambda record: record.sequence)


async def _until_now(store: EventStore, subject: str) -> AsyncIterator[Record]:
    end = await store.last_sequence(subject)
    if end == 0:
        return
    async with aclosing(store.follow(subject=subject)) as records:  # type: ignore[type-var]
        async for record in records:
            yield record
            if record.sequence >= end:
                return


@asynccontextmanager
async def _event_store(url: str) -> AsyncIterator[EventStore]:
    import structlog
    from anabranch_kit.adapters.jetstream_event_store import JetStreamEventStore
    from anabranch_kit.adapters.nats_connection import NatsUnreachable, connect_nats
    from anabranch_kit.adapters.system_clock import SystemClock

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    clock = SystemClock()
    try:
        connection = await connect_nats(
            url, name="anabranch history", clock=clock, wait_s=CONNECT_WAIT_S
        )
    except NatsUnreachable as error:
        raise Problem(
            f"NATS at {url} does not answer: {error.reason}",
            hint="is the cluster running? name its NATS with --nats or its ready file "
            "with --cluster",
            code=ExitCode.UNREACHABLE,
        ) from error
    try:
        yield JetStreamEventStore(connection, clock=clock)
    finally:
        await connection.close()


# --- telling -----------------------------------------------------------------------------


@dataclass(slots=True)
class Teller:
    """Turns records into rows; knows the epoch that is current at each of them.

    `own` is the subject that the history is about; what is told of others is named."""

    own: str
    concerns: Concerns = _all
    _epoch: int | None = None
    _epoch_to_be: int | None = None

    def rows(self, records: list[Record]) -> Iterator[Row]:
        import msgspec
        from anabranch_events.domain import NewerVersion, decode_batch

        for record in records:
            try:
                batch = decode_batch(record.subject, record.payload)
            except (msgspec.DecodeError, NewerVersion) as error:
                yield self._unreadable(record, error)
                continue
            assert batch is not None, "only subjects of aggregates are read"
            yield from self._told(record, batch)

    def _told(self, record: Record, batch: Batch) -> Iterator[Row]:
        import msgspec

        from anabranch_cli import narration

        for event in batch.events:
            self._follow(event)
            if not self.concerns(record.subject, event):
                continue
            yield {
                "sequence": record.sequence,
                "time": narration.moment(batch.at_ms),
                "epoch": self._epoch,
                "event": type(event).__name__,
                "cause": narration.cause(event) or None,
                "what": self._whose(record.subject) + narration.sentence(event),
                "by": batch.by,
                "subject": record.subject,
                "data": msgspec.to_builtins(event),
            }

    def _follow(self, event: DomainEvent) -> None:
        from anabranch_events import domain

        match event:
            case domain.StreamCreated():
                self._epoch = 0
            case domain.ScaleCompleted(epoch=epoch):
                self._epoch = epoch
            case domain.RollingEpochsAppended(active_epoch_copy=copy):
                self._epoch_to_be = copy.epoch
            case domain.CommitCompleted() if self._epoch_to_be is not None:
                self._epoch, self._epoch_to_be = self._epoch_to_be, None
            case _:
                pass

    def _whose(self, subject: str) -> str:
        if subject == self.own or ".transaction." not in subject:
            return ""
        return f"transaction {subject.rpartition('.')[2]}: "

    def _unreadable(self, record: Record, error: Exception) -> Row:
        """Of a later release, or damaged: named, and no reason to hide the rest."""
        return {
            "sequence": record.sequence,
            "time": None,
            "epoch": self._epoch,
            "event": None,
            "cause": None,
            "what": f"message {record.sequence} cannot be read by this release: {error}",
            "by": None,
            "subject": record.subject,
            "data": None,
        }
