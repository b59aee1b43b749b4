"""The recorded exchanges of the segment store protocol, replayed; and the replayer itself.

The live test starts a segment store as a process of its own, with one container as the recorded
one had, or uses the one at ANABRANCH_STORE (host:port; ANABRANCH_STORE_ADMIN_PORT if it has such
a port). What may differ is listed in docs/compatibility.md.
"""

import asyncio
import fnmatch
import importlib.util
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pytest
from anabranch_kit import server_binaries
from anabranch_kit.adapters.redis_registry import RedisRegistry
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ports.registry import Assignment, ClusterInfo
from anabranch_testkit.servers import Server, nats_server, valkey_server
from anabranch_testkit.waiting import eventually
from anabranch_wire import commands as c
from anabranch_wire.codec import decode, encode
from anabranch_wire.framing import FrameSplitter

SCOPE = b"wire4711"
COMPATIBILITY = Path(__file__).parents[2] / "docs" / "compatibility.md"


def _load_replayer() -> ModuleType:
    """Tests are not a package, so a neighbour is loaded from its file."""
    spec = importlib.util.spec_from_file_location(
        "wire_replay", Path(__file__).with_name("wire_replay.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


wire_replay = _load_replayer()
EXCHANGES = wire_replay.recorded_exchanges()

Change = Callable[[c.Command], c.Command]


class ActingServer:
    """Plays the server's part of one exchange, as recorded or with changed replies."""

    def __init__(self, exchange: dict[str, Any], change: Change) -> None:
        self.exchange, self.change = exchange, change
        self._arrived: dict[str, asyncio.Queue[Any]] = {
            "ordinary": asyncio.Queue(),
            "admin": asyncio.Queue(),
        }
        self._connections: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def __aenter__(self) -> "ActingServer":
        self._servers = [
            await asyncio.start_server(
                lambda *streams, port=port: self._arrived[port].put_nowait(streams), "127.0.0.1", 0
            )
            for port in ("ordinary", "admin")
        ]
        self._acting = asyncio.create_task(self._act())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._acting.done():
            self._acting.result()  # raises what went wrong in it
        self._acting.cancel()
        await asyncio.wait([self._acting])
        for server in self._servers:
            server.close()
        for _, writer in self._connections.values():
            writer.transport.abort()

    def options(self, **more: Any) -> Any:
        ports = [server.sockets[0].getsockname()[1] for server in self._servers]
        given = {"patience_s": 3.0, "auth": True, "destructive": True, **more}
        return wire_replay.Options("127.0.0.1", *ports, **given)

    async def _act(self) -> None:
        for step in self.exchange["steps"]:
            if "conn" in step:
                await self._do(step)
        states = {"0": self.exchange["connection_after"]}
        for connection, state in self.exchange.get("connections_after", states).items():
            if state == "closed" and int(connection) in self._connections:
                self._connections[int(connection)][1].close()
        answering = [self._answer_keep_alive(*each) for each in self._connections.values()]
        await asyncio.gather(*answering)

    async def _do(self, step: dict[str, Any]) -> None:
        connection = step["conn"]
        if connection not in self._connections:
            port = "admin" if connection >= 90 else "ordinary"
            self._connections[connection] = await self._arrived[port].get()
        reader, writer = self._connections[connection]
        if wire_replay.is_step(step, "send"):
            await reader.readexactly(len(wire_replay.frame_bytes(step, "send")))
        elif wire_replay.is_step(step, "recv"):
            frame = wire_replay.frame_bytes(step, "recv")
            ((code, payload),) = FrameSplitter().receive(frame)
            recorded = decode(code, payload)
            changed = self.change(recorded)
            frame = frame if changed is recorded else encode(changed)
            writer.write(frame.replace(b"wire0000", SCOPE))
        elif step.get("closed"):
            writer.close()

    async def _answer_keep_alive(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """What stays unread from the exchange (a frame that is too long) comes before it."""
        keep_alive = encode(c.KeepAlive())
        seen = b""
        while data := await reader.read(65_536):
            seen = (seen + data)[-100:]
            if seen.endswith(keep_alive) and not writer.is_closing():
                writer.write(keep_alive)


async def replayed(
    exchange: dict[str, Any], change: Change = lambda reply: reply, **more: Any
) -> list[Any]:
    async with ActingServer(exchange, change) as server:
        result = await wire_replay.Replay(exchange, server.options(**more), SCOPE).run()
    return list(result.differences)


def named(name: str) -> dict[str, Any]:
    (found,) = (each for each in EXCHANGES if each["name"] == name)
    return json.loads(json.dumps(found))


# --- The replayer ---


async def test_the_recorded_server_has_no_differences() -> None:
    """A replayer that finds faults where there are none would be switched off."""
    slots = asyncio.Semaphore(40)

    async def one(exchange: dict[str, Any]) -> list[Any]:
        async with slots:
            return await replayed(exchange)

    outcomes = await asyncio.gather(*map(one, EXCHANGES))
    different = {
        exchange["name"]: list(map(str, found))
        for exchange, found in zip(EXCHANGES, outcomes, strict=True)
        if found
    }
    assert different == {}


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        (
            "create-attributes",
            lambda reply: reply._replace(request_id=1) if reply[0] == (1 << 32) + 1 else reply,
            "SegmentCreated.request_id",
        ),
        (
            "append-pipelined",
            lambda reply: (
                reply._replace(previous_event_number=0)
                if isinstance(reply, c.DataAppended)
                else reply
            ),
            "DataAppended.previous_event_number",
        ),
        (
            "pipeline-errors-and-successes",
            lambda reply: (
                c.SegmentAlreadyExists(reply.request_id, reply.segment)
                if isinstance(reply, c.NoSuchSegment)
                else reply
            ),
            "reply",
        ),
    ],
)
async def test_a_changed_reply_is_found(name: str, change: Change, field: str) -> None:
    """A regression of the server would pass."""
    found = await replayed(named(name), change)
    assert field in {each.what for each in found}


async def test_a_server_that_says_nothing_or_closes() -> None:
    """A hanging server would hang the tests, or pass."""
    exchange = named("create-attributes")
    closing = {**exchange, "steps": [*exchange["steps"][:1], {"conn": 0, "closed": True}]}
    silent = {**exchange, "steps": exchange["steps"][:1]}
    for acting, what in ((closing, "connection ended"), (silent, "nothing came")):
        async with ActingServer(acting, lambda reply: reply) as server:
            options = server.options(patience_s=0.2)
            result = await wire_replay.Replay(exchange, options, SCOPE).run()
        assert [each.what for each in result.differences] == [what]
        assert result.is_fault


async def test_an_open_connection_where_a_closed_one_was_recorded() -> None:
    """A server that goes on after a broken frame would pass."""
    exchange = named("length-negative")
    acting = {
        **exchange,
        "connection_after": "open",
        "steps": [step for step in exchange["steps"] if "closed" not in step],
    }
    async with ActingServer(acting, lambda reply: reply) as server:
        options = server.options(patience_s=0.2)
        result = await wire_replay.Replay(exchange, options, SCOPE).run()
    assert [each.actual for each in result.differences] == ["still open"]


def _later(reply: c.Command) -> c.Command:
    """All versions and positions of a table, moved."""
    if isinstance(reply, c.TableEntriesUpdated):
        return reply._replace(updated_versions=tuple(each + 9 for each in reply.updated_versions))
    if isinstance(reply, c.TableRead):
        return reply._replace(
            entries=tuple(
                each._replace(key=each.key._replace(version=each.key.version + 9))
                if each.key.version >= 0
                else each
                for each in reply.entries
            )
        )
    return reply


async def test_other_table_versions_are_carried_over() -> None:
    """A server that counts versions in its own way is right as long as it is consistent."""
    (exchange,) = (each for each in EXCHANGES if each["name"] == "table-remove-then-insert")
    strict = await replayed(exchange, _later)
    assert {each.what for each in strict} >= {"TableEntriesUpdated.updated_versions"}
    loose = await replayed(exchange, _later, loose_versions=True)
    assert "TableEntriesUpdated.updated_versions" not in {each.what for each in loose}


def test_what_is_left_out() -> None:
    """A damaged or refused server would fail all exchanges behind it."""
    options = wire_replay.Options("127.0.0.1", 1)
    skipped = [each for each in EXCHANGES if wire_replay.why_skipped(each, options)]
    assert len(EXCHANGES) == 321
    assert len(EXCHANGES) - len(skipped) > 290
    assert all(
        each.get("auth")
        or each.get("destructive")
        or any(step.get("conn", 0) >= 90 for step in each["steps"])
        for each in skipped
    )


# --- A live store ---


@pytest.fixture
async def store_options() -> AsyncIterator[Any]:
    """Where the store under test listens."""
    address = os.environ.get("ANABRANCH_STORE")
    if address is not None:
        host, _, port = address.rpartition(":")
        admin_port = os.environ.get("ANABRANCH_STORE_ADMIN_PORT")
        yield wire_replay.Options(host, int(port), int(admin_port) if admin_port else None)
        return
    async with AsyncExitStack() as owned:
        nats = await owned.enter_async_context(nats_server())
        valkey = await owned.enter_async_context(valkey_server())
        registry = RedisRegistry(valkey.url, clock=SystemClock())
        owned.push_async_callback(registry.close)
        folder = Path(owned.enter_context(TemporaryDirectory()))
        (folder / "tier2").mkdir()
        tierer = make_tierer(nats.url, valkey.url, folder)
        await tierer.start()
        owned.push_async_callback(tierer.stop)
        admin_port = server_binaries.free_port()
        store = make_store(nats.url, valkey.url, folder, admin_port)
        await registry.set_cluster(ClusterInfo("golden", containers_count=1))
        await registry.assign([Assignment(0, "segmentstore-0", 1)])
        await store.start()
        owned.push_async_callback(store.stop)
        await eventually(registry.serving, 20)
        yield wire_replay.Options("127.0.0.1", store.port, admin_port)


def make_store(nats_url: str, redis_url: str, folder: Path, admin_port: int) -> Server:
    port = server_binaries.free_port()
    command = [sys.executable, "-m", "anabranch_segmentstore", "--port", str(port)]
    command += ["--admin-port", str(admin_port), "--nats-url", nats_url, "--redis-url", redis_url]
    command += ["--wal-dir", str(folder / "wal"), "--tier2-dir", str(folder / "tier2")]
    return Server("segmentstore", f"127.0.0.1:{port}", port, folder, lambda: command)


def make_tierer(nats_url: str, redis_url: str, folder: Path) -> Server:
    """Its port is that of its health."""
    port = server_binaries.free_port()
    command = [sys.executable, "-m", "anabranch_tierer", "--health-port", str(port)]
    command += ["--nats-url", nats_url, "--redis-url", redis_url]
    command += ["--tier2-dir", str(folder / "tier2")]
    return Server("tierer", f"127.0.0.1:{port}", port, folder, lambda: command)


def accepted_differences() -> list[tuple[str, str]]:
    """What docs/compatibility.md accepts: patterns of an exchange's name and of what differs.

    The first column of its table says `name` for all differences of an exchange, or
    `name` what, for one field of its replies.
    """
    text = COMPATIBILITY.read_text()
    section = text[text.index("## Wire protocol") :]
    section = section[: section.find("\n## ", 5)]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| `")]
    return [(row.split("`")[1], row.split("`")[2].strip() or "*") for row in rows]


def is_accepted(exchange: str, what: str, accepted: list[tuple[str, str]]) -> bool:
    return any(
        fnmatch.fnmatchcase(exchange, name) and fnmatch.fnmatchcase(what, field)
        for name, field in accepted
    )


def test_accepted_differences_name_exchanges() -> None:
    """A difference that is accepted under a wrong name would be reported for ever."""
    names = [each["name"] for each in EXCHANGES]
    accepted = accepted_differences()
    assert accepted
    for pattern, _ in accepted:
        assert fnmatch.filter(names, pattern), f"no exchange is called {pattern}"


async def test_a_live_store_answers_as_recorded(store_options: Any) -> None:
    """An unmodified client would meet a server that behaves unlike Pravega."""
    results = await wire_replay.replay(EXCHANGES, store_options, chance=random.Random())
    assert len([result for result in results if not result.skipped]) > 290
    accepted = accepted_differences()
    faults = {
        result.name: [
            str(each)
            for each in result.differences
            if not is_accepted(result.name, each.what, accepted)
        ]
        for result in results
        if result.is_fault
    }
    assert {name: found for name, found in faults.items() if found} == {}
