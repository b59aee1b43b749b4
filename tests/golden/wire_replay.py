"""Replays recorded exchanges with a segment store against a live one and says what differs.

    python tests/golden/wire_replay.py --port 12345 [--admin-port 9999] [--only REGEX]

`wire.jsonl` holds what Pravega 0.13.0 answered to 321 short conversations of raw frames. Each is
repeated byte for byte, except for what must be new: the scope (`wire0000` in the recording), and
what the server itself made up earlier in the conversation (transient names, continuation tokens).
The replies are decoded on both sides and compared field by field.

Never compared: `last_modified`, stack traces, the text of an ErrorMessage, names that the server
makes up, and the fields that a step names in `vary`. A SegmentRead may give less than recorded.

Flags of an exchange: `unordered` (replies may come in another order), `coalesced`
(acknowledgements may be merged), `tolerant` (a race or a freedom: a difference is a note, not a
fault), `destructive` and `auth` (left out unless asked for).
"""

import argparse
import asyncio
import base64
import json
import random
import re
import string
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from anabranch_wire import commands as c
from anabranch_wire.codec import decode, encode
from anabranch_wire.errors import ProtocolError
from anabranch_wire.framing import Frame, FrameSplitter

RECORDING: Final = Path(__file__).with_name("wire.jsonl")
RECORDED_SCOPE: Final = b"wire0000"
FIRST_ADMIN_CONNECTION: Final = 90
PATIENCE_S: Final = 5.0  # for a frame or a close that was recorded
LOOK_S: Final = 0.05  # for what should not come, where the recording gives no time
AT_ONCE_COUNT: Final = 8  # exchanges replayed side by side: many consist of waiting

TEXTS: Final = {"server_stack_trace", "last_modified"}
MADE_UP_DIGITS_COUNT: Final = 32  # at the end of a transient segment's name
TABLE_NUMBERS: Final = {"last_position", "table_segment_offset", "length", "start_offset"}


class Options(NamedTuple):
    """`loose_versions`: table versions and positions may differ if they do so consistently."""

    host: str
    port: int
    admin_port: int | None = None
    auth: bool = False
    destructive: bool = False
    loose_versions: bool = False
    any_order: bool = False
    patience_s: float = PATIENCE_S


class Difference(NamedTuple):
    """One thing that is not as recorded; `step` counts from 0, -1 is after the last."""

    step: int
    what: str
    recorded: object
    actual: object

    def __str__(self) -> str:
        return f"step {self.step}: {self.what}: recorded {self.recorded}, actual {self.actual}"


class Result(NamedTuple):
    """What came of one exchange. `skipped` says why it was not replayed."""

    name: str
    is_tolerant: bool
    differences: tuple[Difference, ...]
    skipped: str = ""

    @property
    def is_fault(self) -> bool:
        return bool(self.differences) and not self.is_tolerant


class GaveUp(Exception):
    """The conversation cannot go on; what was different is noted already."""


def recorded_exchanges(path: Path = RECORDING) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def frame_bytes(step: dict[str, Any], way: str) -> bytes:
    """The frame of a `send` or `recv` step, which is compressed when it is long."""
    if way in step:
        return bytes.fromhex(step[way])
    return zlib.decompress(base64.b64decode(step[way + "_z"]))


def is_step(step: dict[str, Any], way: str) -> bool:
    return way in step or way + "_z" in step


# --- One connection --------------------------------------------------------------------------


class Peer(asyncio.Protocol):
    """One connection to the server under test: the frames that came, in order."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self.is_closed = False
        self.ending: object = "closed"  # how a report calls it
        self.transport: asyncio.Transport
        self._splitter = FrameSplitter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._splitter.receive(data):
                self.frames.put_nowait(frame)
        except ProtocolError as error:
            self.ending = error
            self.transport.abort()

    def eof_received(self) -> None:
        self._ended()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()

    def _ended(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.frames.put_nowait(None)

    async def next(self, timeout_s: float) -> Frame | None:
        """The next frame; None when the connection ended. Raises TimeoutError."""
        if self.is_closed and self.frames.empty():
            return None
        async with asyncio.timeout(timeout_s):
            return await self.frames.get()


# --- What the server made up, carried into later frames ------------------------------------------


@dataclass
class Carried:
    """Recorded bytes and what stands in their place this time."""

    scope: bytes
    names: list[tuple[bytes, bytes]] = field(default_factory=list)
    tokens: list[tuple[bytes, bytes]] = field(default_factory=list)
    numbers: dict[tuple[str, int], int] = field(default_factory=dict)

    def to_send(self, frame: bytes, *, loose: bool) -> bytes:
        frame = frame.replace(RECORDED_SCOPE, self.scope)
        for recorded, actual in self.names:
            frame = frame.replace(recorded, actual)
        for recorded, actual in self.tokens:
            at = frame.find(recorded)
            if at >= 8:
                body = frame[8:].replace(recorded, actual)
                frame = frame[:4] + len(body).to_bytes(4, "big") + body
        return self._with_numbers(frame) if loose and self.numbers else frame

    def to_compare(self, frame: Frame) -> Frame:
        payload = bytes(frame.payload).replace(self.scope, RECORDED_SCOPE)
        for recorded, actual in self.names:
            payload = payload.replace(actual, recorded)
        return Frame(frame.code, payload)

    def learn(self, recorded: c.Command, actual: c.Command) -> None:
        """Remember what will stand in later requests."""
        if type(recorded) is not type(actual):
            return
        if isinstance(recorded, c.SegmentCreated) and isinstance(actual, c.SegmentCreated):
            if "#transient." in recorded.segment and recorded.segment != actual.segment:
                digits = recorded.segment[-MADE_UP_DIGITS_COUNT:].encode()
                self.names.append((digits, actual.segment[-MADE_UP_DIGITS_COUNT:].encode()))
        elif isinstance(recorded, c.TableKeysRead | c.TableEntriesRead) and isinstance(
            actual, c.TableKeysRead | c.TableEntriesRead
        ):
            old, new = recorded.continuation_token, actual.continuation_token
            if old and new and old != new:
                self.tokens.append((_counted(old), _counted(new)))

    def _with_numbers(self, frame: bytes) -> bytes:
        try:
            ((code, payload),) = FrameSplitter().receive(frame)
            command = decode(code, payload)
        except (ProtocolError, ValueError):
            return frame  # wrong on purpose
        segment = getattr(command, "segment", "").replace(self.scope.decode(), "wire0000")

        def number(recorded: int) -> int:
            return self.numbers.get((segment, recorded), recorded)

        def key(recorded: c.TableKey) -> c.TableKey:
            return recorded._replace(version=number(recorded.version))

        match command:
            case c.UpdateTableEntries():
                changed: c.Command = command._replace(
                    entries=tuple(each._replace(key=key(each.key)) for each in command.entries),
                    table_segment_offset=number(command.table_segment_offset),
                )
            case c.RemoveTableKeys():
                changed = command._replace(
                    keys=tuple(map(key, command.keys)),
                    table_segment_offset=number(command.table_segment_offset),
                )
            case c.ReadTableEntriesDelta():
                changed = command._replace(from_position=number(command.from_position))
            case _:
                return frame
        return encode(changed) if changed != command else frame


def _counted(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


# --- Comparing -------------------------------------------------------------------------------


class Comparison:
    """Compares replies with recorded ones; `segment_of` tells which table a reply is about."""

    def __init__(self, options: Options, carried: Carried) -> None:
        self._options, self._carried = options, carried
        self.segment_of: dict[int, str] = {}

    def differences(
        self, recorded: c.Command, actual: c.Command, vary: Iterable[str]
    ) -> list[tuple[str, object, object]]:
        """Field, recorded and actual value of what differs."""
        varying = set(map(snake_case, vary))
        if "type" in varying:
            return []
        if type(recorded) is not type(actual):
            return [("reply", recorded, actual)]
        found = []
        for name in recorded._fields:
            left, right = getattr(recorded, name), getattr(actual, name)
            if name in varying or self._same(recorded, actual, name, left, right):
                continue
            found.append((f"{type(recorded).__name__}.{name}", left, right))
        return found

    def _same(
        self, recorded: c.Command, actual: c.Command, name: str, left: Any, right: Any
    ) -> bool:
        if left == right or name in TEXTS:
            return True
        match recorded:
            case c.ErrorMessage():
                return name == "message"
            case c.SegmentCreated() if "#transient." in recorded.segment:
                kept = len(left) - MADE_UP_DIGITS_COUNT
                return len(left) == len(right) and bool(left[:kept] == right[:kept])
            case c.TableKeysRead() | c.TableEntriesRead() if name == "continuation_token":
                return bool(left) == bool(right)
            case c.SegmentRead():
                return _is_shorter_read(recorded, actual, name)
            case c.StorageChunksListed() if name == "chunks":
                return [each._replace(chunk_name="") for each in left] == [
                    each._replace(chunk_name="") for each in right
                ]
            case _:
                return self._same_table(recorded, name, left, right)

    def _same_table(self, recorded: c.Command, name: str, left: Any, right: Any) -> bool:
        if name in ("entries", "keys"):
            unordered = self._options.any_order or isinstance(recorded, c.TableEntriesDeltaRead)
            if unordered:
                left, right = sorted(left), sorted(right)
            if left == right:
                return True
            return len(left) == len(right) and all(
                self._same_entry(recorded, *pair) for pair in zip(left, right, strict=True)
            )
        if name == "updated_versions":
            return len(left) == len(right) and all(
                self._same_number(recorded, *pair) for pair in zip(left, right, strict=True)
            )
        if name in TABLE_NUMBERS:
            return self._same_number(recorded, left, right)
        return False

    def _same_entry(self, recorded: c.Command, left: Any, right: Any) -> bool:
        if isinstance(left, c.TableEntry):
            same_value: bool = left.value == right.value
            return same_value and self._same_entry(recorded, left.key, right.key)
        same_key: bool = left.key == right.key
        return same_key and self._same_number(recorded, left.version, right.version)

    def _same_number(self, recorded: c.Command, left: int, right: int) -> bool:
        """Positions in a table segment: each recorded one stands for one actual one."""
        if left == right:
            return True
        if not self._options.loose_versions or left < 0 or right < 0:
            return False
        segment = self.segment_of.get(getattr(recorded, "request_id", -1), "")
        return self._carried.numbers.setdefault((segment, left), right) == right


def _is_shorter_read(recorded: c.SegmentRead, actual: c.Command, name: str) -> bool:
    """A server may give the beginning of what was recorded; its flags then say other things."""
    assert isinstance(actual, c.SegmentRead)
    is_beginning = 0 < len(actual.data) < len(recorded.data) and bytes(recorded.data).startswith(
        actual.data
    )
    return is_beginning and name in ("data", "at_tail", "end_of_segment")


def snake_case(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), name)


# --- One exchange ----------------------------------------------------------------------------


class Replay:
    """One exchange on its way."""

    def __init__(self, exchange: dict[str, Any], options: Options, scope: bytes) -> None:
        self.exchange, self.options = exchange, options
        self.carried = Carried(scope)
        self.comparison = Comparison(options, self.carried)
        self.peers: dict[int, Peer] = {}
        self.differences: list[Difference] = []
        self._joined: dict[int, bytes] = {}

    async def run(self) -> Result:
        try:
            steps = self.exchange["steps"]
            at = 0
            while at < len(steps):
                at += await self._step(at, steps)
            await self._connections_after()
        except GaveUp:
            pass
        finally:
            for peer in self.peers.values():
                peer.transport.abort()
        tolerant = self.exchange.get("tolerant", False)
        return Result(self.exchange["name"], tolerant, tuple(self.differences))

    async def _step(self, at: int, steps: Sequence[dict[str, Any]]) -> int:
        """Do the step, and those that belong to it; returns how many they were."""
        step = steps[at]
        if "wait_ms" in step:
            await asyncio.sleep(step["wait_ms"] / 1000)
            return 1
        connection = step["conn"]
        peer = await self._peer(connection)
        if is_step(step, "send"):
            self._send(peer, connection, step)
        elif is_step(step, "recv"):
            return await self._receive(at, peer, steps)
        elif "silent_ms" in step:
            await self._silence(at, peer, step["silent_ms"] / 1000)
        elif step.get("closed"):
            await self._close(at, peer)
        elif step.get("client_closes"):
            peer.transport.close()
        elif step.get("client_shuts_down_sending"):
            peer.transport.write_eof()
        else:
            raise ValueError(f"{self.exchange['name']}: step {at} is of no known sort: {step}")
        return 1

    async def _peer(self, connection: int) -> Peer:
        if connection not in self.peers:
            port = self.options.port
            if connection >= FIRST_ADMIN_CONNECTION:
                assert self.options.admin_port is not None, "such exchanges are skipped"
                port = self.options.admin_port
            loop = asyncio.get_running_loop()
            _, self.peers[connection] = await loop.create_connection(Peer, self.options.host, port)
        return self.peers[connection]

    def _send(self, peer: Peer, connection: int, step: dict[str, Any]) -> None:
        recorded = frame_bytes(step, "send")
        fields = step.get("send_fields", {})
        if "segment" in fields and "requestId" in fields:
            self.comparison.segment_of[fields["requestId"]] = fields["segment"]
        frame = self.carried.to_send(recorded, loose=self.options.loose_versions)
        waiting = self._joined.pop(connection, b"") + frame
        if step.get("joined"):
            self._joined[connection] = waiting
        else:
            peer.transport.write(waiting)

    async def _receive(self, at: int, peer: Peer, steps: Sequence[dict[str, Any]]) -> int:
        group = [steps[at]]
        if self.exchange.get("unordered") or self.exchange.get("coalesced"):
            for step in steps[at + 1 :]:
                if not is_step(step, "recv") or step["conn"] != steps[at]["conn"]:
                    break
                group.append(step)
        expected = [self._recorded(step) for step in group]
        if self.exchange.get("coalesced") and isinstance(expected[0], c.DataAppended):
            await self._acknowledgements(at, peer, expected)
            return len(group)
        actual = [await self._next(at, peer, step) for step in group]
        for step, recorded in zip(group, expected, strict=True):
            self._compare(at, recorded, self._best_match(recorded, actual, step), step)
        return len(group)

    def _recorded(self, step: dict[str, Any]) -> c.Command:
        ((code, payload),) = FrameSplitter().receive(frame_bytes(step, "recv"))
        return decode(code, payload)

    async def _next(self, at: int, peer: Peer, step: dict[str, Any]) -> c.Command:
        patience_s = self.options.patience_s + (step.get("after_ms") or 0) / 1000
        recorded = self._recorded(step)
        try:
            frame = await peer.next(patience_s)
        except TimeoutError:
            self._differs(at, "nothing came", recorded, "silence")
            raise GaveUp from None
        if frame is None:
            self._differs(at, "connection ended", recorded, peer.ending)
            raise GaveUp
        return self._decoded(at, frame)

    def _decoded(self, at: int, frame: Frame) -> c.Command:
        try:
            return decode(*self.carried.to_compare(frame))
        except ProtocolError as error:
            self._differs(at, "broken frame", "a reply", error)
            raise GaveUp from error

    def _best_match(
        self, recorded: c.Command, actual: list[c.Command], step: dict[str, Any]
    ) -> c.Command:
        """The reply that differs least, so that another order is not taken for a difference."""
        vary = step.get("vary", ())
        best = min(actual, key=lambda each: _weight(recorded, each, self.comparison, vary))
        actual.remove(best)
        return best

    def _compare(
        self, at: int, recorded: c.Command, actual: c.Command, step: dict[str, Any]
    ) -> None:
        vary = step.get("vary", ())
        for what, left, right in self.comparison.differences(recorded, actual, vary):
            self._differs(at, what, left, right)
        self.carried.learn(recorded, actual)

    async def _acknowledgements(self, at: int, peer: Peer, expected: Sequence[c.Command]) -> None:
        """DataAppended may be merged: each goes on where the one before it ended."""
        last = expected[-1]
        assert isinstance(last, c.DataAppended), "only acknowledgements are merged"
        first = expected[0]
        assert isinstance(first, c.DataAppended), "only acknowledgements are merged"
        previous = first.previous_event_number
        while True:
            actual = await self._next(at, peer, self.exchange["steps"][at])
            if not isinstance(actual, c.DataAppended):
                self._differs(at, "reply", last, actual)
                raise GaveUp
            if actual.previous_event_number != previous:
                self._differs(
                    at,
                    "DataAppended.previous_event_number",
                    previous,
                    actual.previous_event_number,
                )
            previous = actual.event_number
            if actual.event_number >= last.event_number:
                self._compare(
                    at,
                    last._replace(previous_event_number=actual.previous_event_number),
                    actual,
                    {},
                )
                return

    async def _silence(self, at: int, peer: Peer, duration_s: float) -> None:
        try:
            frame = await peer.next(duration_s)
        except TimeoutError:
            return
        if frame is None:
            self._differs(at, "connection ended", "silence", "closed")
            raise GaveUp
        self._differs(at, "unexpected reply", "silence", self._decoded(at, frame))

    async def _close(self, at: int, peer: Peer) -> None:
        try:
            frame = await peer.next(self.options.patience_s)
        except TimeoutError:
            self._differs(at, "connection", "closed", "still open")
            raise GaveUp from None
        if frame is not None:
            self._differs(at, "connection", "closed", self._decoded(at, frame))
            raise GaveUp

    async def _connections_after(self) -> None:
        states = {0: self.exchange.get("connection_after", "none")}
        for connection, state in self.exchange.get("connections_after", {}).items():
            states[int(connection)] = state
        for connection, state in states.items():
            if connection in self.peers and state in ("open", "closed"):
                await self._state_after(connection, state)

    async def _state_after(self, connection: int, state: str) -> None:
        """Is the connection as recorded? An open one answers a KeepAlive, unless told not to."""
        peer = self.peers[connection]
        if peer.transport.is_closing() and not peer.is_closed:
            return  # our side closed it
        is_asked = state == "open" and connection not in self.exchange.get("no_probe", ())
        if is_asked and not peer.is_closed:
            peer.transport.write(encode(c.KeepAlive()))
        try:
            frame = await peer.next(LOOK_S if not is_asked and state == "open" else PATIENCE_S)
        except TimeoutError:
            if is_asked or state == "closed":
                self._differs(-1, f"connection {connection}", state, "silent and open")
            return
        if frame is None:
            if state == "open":
                self._differs(-1, f"connection {connection}", state, "closed")
            return
        reply = self._decoded(-1, frame)
        if not (is_asked and isinstance(reply, c.KeepAlive)):
            self._differs(-1, f"connection {connection}", state, reply)

    def _differs(self, at: int, what: str, recorded: object, actual: object) -> None:
        self.differences.append(Difference(at, what, recorded, actual))


def _weight(
    recorded: c.Command, actual: c.Command, comparison: Comparison, vary: Iterable[str]
) -> int:
    if type(recorded) is not type(actual):
        return 100
    return len(comparison.differences(recorded, actual, vary))


# --- All exchanges ---------------------------------------------------------------------------


def why_skipped(exchange: dict[str, Any], options: Options) -> str:
    """Empty for what can be replayed with these options."""
    if exchange.get("auth", False) != options.auth:
        return "needs a server with authorization" if exchange.get("auth") else "without --auth"
    if exchange.get("destructive") and not options.destructive:
        return "destructive"
    connections = {step.get("conn", 0) for step in exchange["steps"]}
    if max(connections) >= FIRST_ADMIN_CONNECTION and options.admin_port is None:
        return "needs an administrative port"
    return ""


async def replay(
    exchanges: Iterable[dict[str, Any]],
    options: Options,
    *,
    chance: random.Random,
    report: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Replay the exchanges, some at once, in a scope that is new in every run."""
    letters = string.ascii_lowercase + string.digits
    scope = b"wire" + "".join(chance.choices(letters, k=4)).encode()
    slots = asyncio.Semaphore(AT_ONCE_COUNT)

    async def one(exchange: dict[str, Any]) -> Result:
        skipped = why_skipped(exchange, options)
        if skipped:
            return Result(exchange["name"], False, (), skipped)
        async with slots:
            result = await Replay(exchange, options, scope).run()
        report(result)
        return result

    return list(await asyncio.gather(*map(one, exchanges)))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Replay recorded exchanges, say what differs.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--admin-port", type=int)
    parser.add_argument("--recording", type=Path, default=RECORDING)
    parser.add_argument("--only", default="", help="regular expression for names")
    parser.add_argument("--auth", action="store_true")
    parser.add_argument("--destructive", action="store_true")
    parser.add_argument("--loose-versions", action="store_true")
    parser.add_argument("--any-order", action="store_true")
    given = parser.parse_args(arguments)
    options = Options(
        given.host,
        given.port,
        given.admin_port,
        given.auth,
        given.destructive,
        given.loose_versions,
        given.any_order,
    )

    def report(result: Result) -> None:
        sort = "note " if result.is_tolerant else "DIFFERS "
        for difference in result.differences:
            print(f"{sort}{result.name} {difference}", flush=True)

    exchanges = [
        each for each in recorded_exchanges(given.recording) if re.search(given.only, each["name"])
    ]
    results = asyncio.run(replay(exchanges, options, chance=random.Random(), report=report))
    replayed = [result for result in results if not result.skipped]
    faults = [result for result in replayed if result.is_fault]
    print(
        f"{len(replayed)} replayed, {len(results) - len(replayed)} skipped, "
        f"{len(faults)} differ: {' '.join(result.name for result in faults)}"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
