"""One container's stream on a NATS server: what a JetStreamLog asks of it.

Two ways to read. `message`, `newest_epoch` and `ends` are answered by the stream's leader, and
are what decisions rest on. `fetch` and `fetch_range` may be answered by any replica ("direct
get"), which is good enough for bytes that are known to be there: they never change, and a
checksum and the place in the message tell whether they are the right ones. What a replica does
not have (yet) is asked of the leader before it is called missing.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple, TypeVar

import msgspec
import nats.errors
from anabranch_kit.adapters.jetstream_provision import (
    ProvisionFailed,
    describe,
    ensure_stream,
)
from anabranch_kit.ports.clock import Clock
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from anabranch_segmentstore.adapters.jetstream_log_format import HEADER_BYTES
from anabranch_segmentstore.ports import ContainerId, LogFailed

EXPECTED_HEADER: Final = "Nats-Expected-Last-Sequence"
HEADERS_RESERVED_BYTES: Final = 256  # of max_payload, which counts headers too
MESSAGE_BYTES_MAX: Final = 1024 * 1024  # longer ones are slower (benchmarks/log.py), also to read
BODY_BYTES_MIN: Final = 4096  # a server that takes less is not set up for us
REQUEST_TIMEOUT_S: Final = 3.0
READ_TIMEOUT_S: Final = 5.0
RANGE_BYTES_MAX: Final = 16 * 1024 * 1024  # of one answer to fetch_range
RANGE_MESSAGES_MAX: Final = 1024

WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10164})
NO_MESSAGE_FOUND: Final = 10037
STREAM_NOT_FOUND: Final = 10059
# What an operator has to mend, and what then goes on: no room on the server's disk or in an
# account's limits.
NO_SPACE: Final = frozenset({10023, 10047, 10077, 10122})


class StreamUnavailable(Exception):
    """The server did not answer, or not with what was asked; what a write did is unknown."""

    def __init__(self, reason: str, *, is_no_space: bool = False, is_gone: bool = False) -> None:
        super().__init__(reason)
        self.is_no_space, self.is_gone = is_no_space, is_gone


class WrongLastSequence(Exception):
    """The stream does not end where the message expected it."""


class Ends(NamedTuple):
    """`first` is `last` + 1 in an empty stream."""

    first: int
    last: int
    stored_bytes: int


class _Error(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Acknowledgement(msgspec.Struct, frozen=True):
    seq: int = 0
    error: _Error | None = None


class _State(msgspec.Struct, frozen=True):
    first_seq: int
    last_seq: int
    bytes: int


class _Info(msgspec.Struct, frozen=True):
    state: _State | None = None
    error: _Error | None = None


class _Message(msgspec.Struct, frozen=True):
    seq: int
    data: bytes = b""


class _Got(msgspec.Struct, frozen=True):
    message: _Message | None = None
    error: _Error | None = None


_Asked = TypeVar("_Asked", _Info, _Got)


class ContainerStream:
    """Over a connection that the caller owns. Raises StreamUnavailable unless it says else."""

    def __init__(
        self, client: Client, container: ContainerId, *, clock: Clock, replicas: int
    ) -> None:
        self.client, self.container = client, container
        self._clock, self._replicas = clock, replicas
        self.name = f"ANABRANCH_LOG_{container}"
        self.frames_subject = f"anabranch.log.{container}.frames"
        self.epochs_subject = f"anabranch.log.{container}.epochs"

    async def provision(self) -> None:
        """Make the stream, or bring it to these settings. Raises LogFailed."""
        config = StreamConfig(
            name=self.name,
            subjects=[self.frames_subject, self.epochs_subject],
            storage=StorageType.FILE,
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.NEW,  # with no limit set: a full disk refuses, frames stay
            num_replicas=self._replicas,
            allow_direct=True,
            deny_delete=True,
        )
        try:
            await ensure_stream(self.client, config, clock=self._clock)
        except ProvisionFailed as error:
            raise LogFailed(self.container, str(error)) from error

    @property
    def body_bytes_max(self) -> int:
        """How much of a frame one message takes. Raises LogFailed when that is too little."""
        longest = min(self.client.max_payload, MESSAGE_BYTES_MAX)
        body = longest - HEADERS_RESERVED_BYTES - HEADER_BYTES
        if body < BODY_BYTES_MIN:
            raise LogFailed(
                self.container,
                f"the NATS server takes messages of {self.client.max_payload} bytes at most; "
                "set its max_payload to 1MB or more",
            )
        return body

    # --- Asked of the leader ---

    async def ends(self) -> Ends:
        info = await self._ask("STREAM.INFO", b"", _Info)
        if info.state is None:
            raise _unavailable(info.error)
        return Ends(info.state.first_seq, info.state.last_seq, info.state.bytes)

    async def newest_epoch(self) -> int:
        """The sequence of the newest epoch record, 0 without one."""
        query = json.dumps({"last_by_subj": self.epochs_subject}).encode()
        message = await self._get(query)
        return 0 if message is None else message.seq

    async def message(self, sequence: int) -> bytes | None:
        message = await self._get(json.dumps({"seq": sequence}).encode())
        return None if message is None else message.data

    async def epoch_records(self, first: int) -> list[int]:
        """The sequences of all epoch records from `first` on."""
        found: list[int] = []
        while True:
            newest = await self.newest_epoch()
            batch = await self._fetch({"seq": first, "next_by_subj": self.epochs_subject})
            found += [sequence for sequence, _ in batch]
            if newest < first or (found and found[-1] >= newest):
                return found
            # A replica that lags, or more records than fit into one answer.
            if not batch:
                query = {"seq": first, "next_by_subj": self.epochs_subject}
                message = await self._get(json.dumps(query).encode())
                if message is None:
                    return found
                found.append(message.seq)
            first = found[-1] + 1

    async def purge(self, before: int) -> None:
        """Remove the messages below `before`."""
        answer = await self._ask("STREAM.PURGE", json.dumps({"seq": before}).encode(), _Got)
        if answer.error is not None:
            raise _unavailable(answer.error)

    async def publish(self, subject: str, message: bytes, *, expected: int) -> int:
        """Publish and wait; the sequence. Raises WrongLastSequence too."""
        headers = {EXPECTED_HEADER: str(expected)}
        try:
            answer = await self.client.request(
                subject, message, timeout=REQUEST_TIMEOUT_S, headers=headers
            )
        except nats.errors.Error as error:
            raise StreamUnavailable(describe(error)) from error
        return acknowledged(answer)

    # --- Answered by any replica ---

    async def fetch(self, sequence: int) -> bytes | None:
        """The message that is known to have been stored there; None when it was removed."""
        found = await self._fetch({"seq": sequence, "batch": 1})
        if found and found[0][0] == sequence:
            return found[0][1]
        return await self.message(sequence)

    async def fetch_range(self, first: int, last: int) -> list[tuple[int, bytes]]:
        """Sequence and message of the first ones in [first, last], at least one. A hole ends
        the answer; LookupError when the leader has none at `first`."""
        batch = await self._fetch(
            {"seq": first, "batch": min(last - first + 1, RANGE_MESSAGES_MAX)}
        )
        found = [one for index, one in enumerate(batch) if one[0] == first + index]
        if not found:
            message = await self.message(first)
            if message is None:
                raise LookupError(first)
            found.append((first, message))
        return found

    async def _fetch(self, query: dict[str, object]) -> list[tuple[int, bytes]]:
        query = {"batch": RANGE_MESSAGES_MAX, "max_bytes": RANGE_BYTES_MAX} | query
        client, inbox = self.client, self.client.new_inbox()
        found: list[tuple[int, bytes]] = []
        try:
            subscription = await client.subscribe(inbox)
            try:
                subject = f"$JS.API.DIRECT.GET.{self.name}"
                await client.publish(subject, json.dumps(query).encode(), reply=inbox)
                while True:
                    message = await subscription.next_msg(timeout=READ_TIMEOUT_S)
                    headers = message.headers or {}
                    if "Nats-Sequence" not in headers:
                        return found  # the end of the batch, or nobody has such a message
                    found.append((int(headers["Nats-Sequence"]), message.data))
            finally:
                await subscription.unsubscribe()
        except (TimeoutError, nats.errors.Error) as error:
            raise StreamUnavailable(describe(error)) from error

    async def _get(self, query: bytes) -> _Message | None:
        got = await self._ask("STREAM.MSG.GET", query, _Got)
        if got.message is None and (got.error is None or got.error.err_code != NO_MESSAGE_FOUND):
            raise _unavailable(got.error)
        return got.message

    async def _ask(self, operation: str, query: bytes, kind: type[_Asked]) -> _Asked:
        subject = f"$JS.API.{operation}.{self.name}"
        try:
            answer = await self.client.request(subject, query, timeout=REQUEST_TIMEOUT_S)
            return msgspec.json.decode(answer.data, type=kind)
        except nats.errors.ConnectionClosedError as error:
            raise LogFailed(self.container, "our own connection to NATS was closed") from error
        except (nats.errors.Error, msgspec.DecodeError) as error:
            raise StreamUnavailable(describe(error)) from error


def acknowledged(answer: Msg) -> int:
    """The sequence that a publish got. Raises StreamUnavailable, WrongLastSequence."""
    if not answer.data:
        raise StreamUnavailable("no server takes messages for the stream now")
    try:
        decoded = msgspec.json.decode(answer.data, type=_Acknowledgement)
    except msgspec.DecodeError as error:
        raise StreamUnavailable(f"an answer that is none: {error}") from error
    if decoded.error is None and decoded.seq > 0:
        return decoded.seq
    if decoded.error is not None and decoded.error.err_code in WRONG_LAST_SEQUENCE:
        raise WrongLastSequence(decoded.error.description)
    raise _unavailable(decoded.error)


def _unavailable(error: _Error | None) -> StreamUnavailable:
    if error is None:
        return StreamUnavailable("an answer without content")
    return StreamUnavailable(
        f"{error.description} (error {error.err_code})",
        is_no_space=error.err_code in NO_SPACE,
        is_gone=error.err_code == STREAM_NOT_FOUND,
    )
