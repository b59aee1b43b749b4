"""`anabranch history`: the event log in words, through a real NATS and as a user calls it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from anabranch_cli import narration
from anabranch_cli.history import Teller
from anabranch_events import domain, subjects
from anabranch_events.model import ScalingPolicy, SegmentRange, StreamConfig
from anabranch_kit.adapters.jetstream_event_store import JetStreamEventStore
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ports.event_store import Record
from anabranch_testkit.servers import Server
from nats.aio.client import Client

NOW_MS = 1_774_080_000_000
WHOLE = SegmentRange(0, 0.0, 1.0)
LEFT = SegmentRange(1 << 32 | 1, 0.0, 0.5)
RIGHT = SegmentRange(1 << 32 | 2, 0.5, 1.0)
TRANSACTION = "0000000100000000000000000000002a"
OTHER = "0000000100000000000000000000002b"
STREAM = subjects.stream_events("city", "rides.x")
CONFIG = StreamConfig(scaling=ScalingPolicy("kbytes_per_sec", 100, 2, 1))


def life() -> list[tuple[str, msgspec.Struct]]:
    """Messages of a stream and of one transaction, as controllers write them."""

    def stream(*events: domain.StreamEvent) -> tuple[str, msgspec.Struct]:
        return STREAM, domain.StreamBatch("b", "0123456789abcdef", NOW_MS, events)

    def transaction(*events: domain.TransactionEvent) -> tuple[str, msgspec.Struct]:
        subject = subjects.transaction_events("city", "rides.x", TRANSACTION)
        return subject, domain.TransactionBatch("b", "0123456789abcdef", NOW_MS, events)

    return [
        stream(domain.StreamCreated("city", "rides.x", "i", CONFIG, (WHOLE,), NOW_MS)),
        stream(domain.StreamActivated()),
        transaction(
            domain.TransactionBegun("city", "rides.x", TRANSACTION, 9000, NOW_MS, NOW_MS + 5)
        ),
        stream(
            domain.ScaleStarted(1, (WHOLE,), (LEFT, RIGHT), "load", "hot", 500.0, 100.0, NOW_MS),
            domain.EpochAppended(1, 1, (LEFT, RIGHT), (WHOLE,), NOW_MS),
        ),
        stream(domain.ScaleCompleted(1, ((0, 99),), NOW_MS)),
        transaction(domain.TransactionCommitRequested("w", narration.TIMESTAMP_NONE)),
        stream(domain.CommitCompleted((OTHER,), (), NOW_MS)),
        stream(domain.CommitCompleted((TRANSACTION,), (), NOW_MS)),
    ]


def records() -> list[Record]:
    return [
        Record(sequence, subject, msgspec.json.encode(batch))
        for sequence, (subject, batch) in enumerate(life(), start=1)
    ]


def test_every_event_has_its_sentence() -> None:
    """Somebody's question "what happened" would be answered with a data structure."""
    unions = (
        domain.StreamEvent,
        domain.ScopeEvent,
        domain.TransactionEvent,
        domain.GroupEvent,
        domain.TableEvent,
    )
    all_types = {event for union in unions for event in get_args(union)}
    assert all_types | {domain.ClusterCreated, domain.TransactionIdsReserved} == set(
        narration.SENTENCES
    )


def test_history_tells_times_epochs_causes_and_who() -> None:
    """An operator could not follow why the stream looks as it does."""
    rows = list(Teller(STREAM).rows([one for one in records() if one.subject == STREAM]))
    assert [(row["event"], row["epoch"]) for row in rows] == [
        ("StreamCreated", 0),
        ("StreamActivated", 0),
        ("ScaleStarted", 0),
        ("EpochAppended", 0),
        ("ScaleCompleted", 1),
        ("CommitCompleted", 1),
        ("CommitCompleted", 1),
    ]
    scale = rows[2]
    assert scale["what"] == (
        "began to scale to epoch 1: 0.0 [0, 1) gives way to 1.1 [0, 0.5), 1.2 [0.5, 1);"
        " cause load: hot (measured 500, target 100)"
    )
    assert (scale["cause"], scale["time"]) == ("load", "2026-03-21T08:00:00.000+00:00")
    assert (scale["by"], scale["sequence"]) == ("0123456789abcdef", 4)
    assert rows[4]["what"] == "scaled: epoch 1 is current; sealed 0.0 with 99 bytes"


def test_a_rolling_commit_moves_the_epoch() -> None:
    """All later rows would show an epoch that is long gone."""
    rolling = domain.RollingEpochsAppended(
        domain.EpochAppended(1, 0, (LEFT,), (WHOLE,), 0),
        domain.EpochAppended(2, 1, (RIGHT,), (LEFT,), 0),
    )
    batch = domain.StreamBatch("b", "c", 0, (rolling, domain.CommitCompleted(("t",), (), 0)))
    rows = list(Teller(STREAM).rows([Record(1, STREAM, msgspec.json.encode(batch))]))
    assert [row["epoch"] for row in rows] == [None, 2]


def test_what_cannot_be_read_is_named_and_hides_nothing() -> None:
    """After a downgrade one message would make the whole history unreadable."""
    newer = b'{"id":"","by":"","at_ms":0,"events":[{"type":"StreamTeleported"}]}'
    log = [*records()[:1], Record(7, STREAM, newer), *records()[1:2]]
    rows = list(Teller(STREAM).rows(log))
    assert [row["event"] for row in rows] == ["StreamCreated", None, "StreamActivated"]
    assert "message 7 cannot be read by this release" in str(rows[1]["what"])


# --- as a user calls it ------------------------------------------------------------------


async def anabranch(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "anabranch_cli.main", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def event_log(nats_client: Client) -> JetStreamEventStore:
    store = JetStreamEventStore(nats_client, clock=SystemClock())
    await store.provision()
    for number, (subject, batch) in enumerate(life()):
        await store.append(
            subject,
            msgspec.json.encode(batch),
            expected_sequence=await store.last_sequence(subject),
            batch_id=str(number),
        )
    return store


async def test_history_of_a_stream_and_its_transactions(
    event_log: JetStreamEventStore, nats_server: Server
) -> None:
    """The command would show the wrong thing, or not end."""
    name, nats = "city/rides.x", ("--nats", nats_server.url)
    code, out, err = await anabranch("history", "stream", name, *nats)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 1 + 7
    assert lines[0].split() == ["time", "epoch", "event", "cause", "by", "what"]
    assert "scaled: epoch 1 is current" in out

    code, out, _ = await anabranch(
        "history", "stream", name, "--transactions", "-o", "jsonl", *nats
    )
    rows: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert [row["sequence"] for row in rows] == [1, 2, 3, 4, 4, 5, 6, 7, 8]
    assert rows[2]["what"].startswith(f"transaction {TRANSACTION}: transaction")
    assert rows[3]["data"]["sealed"] == [[0, 0.0, 1.0]]

    code, out, _ = await anabranch("history", "transaction", name, TRANSACTION, "-o", "json", *nats)
    assert [row["event"] for row in json.loads(out)] == [
        "TransactionBegun",
        "TransactionCommitRequested",
        "CommitCompleted",
    ]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("stream", "city/none"), 4),
        (("group", "city/none"), 4),
        (("table", "city/none"), 4),
        (("scope", "none"), 4),
        (("transaction", "city/rides.x", OTHER), 4),
        (("transaction", "city/rides.x", "xyz"), 2),
        (("stream", "city"), 2),
        (("stream", "city/*"), 2),
        (("scope", ">"), 2),
    ],
)
async def test_what_is_not_there_and_what_is_no_name_is_said(
    event_log: JetStreamEventStore, nats_server: Server, arguments: tuple[str, ...], code: int
) -> None:
    """A wildcard would print the history of others, a typing error nothing at all."""
    found, out, err = await anabranch("history", *arguments, "--nats", nats_server.url)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert "try: " in err


async def test_no_nats_is_said(nats_server: Server) -> None:
    """A user would read a traceback."""
    code, _, err = await anabranch("history", "stream", "a/b", "--nats", "nats://127.0.0.1:1")
    assert code == 3
    assert "does not answer" in err


def test_module_of_the_command_is_there() -> None:
    """The entry point would name a module that no wheel has."""
    pyproject = Path(__file__).parents[3] / "cli" / "pyproject.toml"
    assert 'history = "anabranch_cli.history:history_app"' in pyproject.read_text()
