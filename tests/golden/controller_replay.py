"""Replays recorded calls to a controller against a live one and says what differs.

    python tests/golden/controller_replay.py --controller HOST:PORT --rest URL [--only PATTERN]

`controller.jsonl` (957 gRPC calls) and `rest.jsonl` (175 REST calls) hold what Pravega 0.13.0
answered, step by step, in scenarios that do not depend on each other; they are replayed some
at a time, since much of a scenario is waiting.

What a server makes up is bound at first sight and used in later requests: transaction ids,
reader group ids, continuation tokens, times of scaling events. Every name of a recording
begins with `rec0`, which stands for the tag of a run. Segment ids, stream cuts and key ranges
are compared exactly, other lists than segment ranges and scaling events as sets.

A recorded UNKNOWN or INTERNAL may be INVALID_ARGUMENT: both codes make a client repeat for a
minute what cannot succeed. Steps marked `quirk` are not compared, unless they say what a sane
server answers `instead`.
"""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import json
import random
import string
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio
import httpx
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.wire_client import SegmentStoreClient, SegmentStorePool
from anabranch_rpc import controller_pb2 as pb
from anabranch_rpc import controller_pb2_grpc
from anabranch_wire.names import segment_name, transaction_segment_name
from google.protobuf import json_format
from google.protobuf.message import Message

HERE: Final = Path(__file__).parent
RECORDINGS: Final = (HERE / "controller.jsonl", HERE / "rest.jsonl")
TAG: Final = "rec0"
# As long as the recorded one, since names go up to their limits; no word or hex number has one.
TAGS: Final = [
    f"q{digit}{one}{other}"
    for digit in string.digits
    for one in string.ascii_lowercase
    for other in string.ascii_lowercase
]
AT_ONCE_COUNT: Final = 6
CALL_TIMEOUT_S: Final = 150.0
UNTIL_TIMEOUT_S: Final = 30.0
UNTIL_PAUSE_S: Final = 0.1
EVENT_HEADER_BYTES: Final = 8
KINDER_CODES: Final = {("UNKNOWN", "INVALID_ARGUMENT"), ("INTERNAL", "INVALID_ARGUMENT")}
ALMOST_ONE: Final = 0.9999999999999999

# Lists whose order says nothing; `segments` only where they are no ranges of a scale.
AS_SETS: Final = frozenset(
    {
        "endingStreamCuts",
        "kvtables",
        "readerGroups",
        "response",
        "scopes",
        "startingStreamCuts",
        "streams",
        "subscribers",
        "tag",
        "tags",
        "value",
    }
)
SEGMENTS_IN_ORDER: Final = frozenset({"scale", "scaling-events"})
MADE_UP: Final = frozenset({"continuationToken", "timestamp", "start"})

Step = dict[str, Any]
Scenario = tuple[str, list[Step]]


class Difference(NamedTuple):
    scenario: str
    step: int
    call: str
    place: str
    recorded: Any
    live: Any

    @property
    def name(self) -> str:
        return f"{self.scenario}#{self.step}"

    def __str__(self) -> str:
        recorded, live = (json.dumps(one)[:200] for one in (self.recorded, self.live))
        return f"{self.name} {self.call}: {self.place}: recorded {recorded}, live {live}"


class Target(NamedTuple):
    """The live server: `controller` is host:port, `rest` a URL."""

    controller: str
    rest: str


def recorded_scenarios(files: Iterable[Path] = RECORDINGS) -> list[Scenario]:
    scenarios: dict[str, list[Step]] = {}
    for file in files:
        for line in file.read_text().splitlines():
            step = json.loads(line)
            scenarios.setdefault(step["scenario"], []).append(step)
    return list(scenarios.items())


async def replay(target: Target, scenarios: Sequence[Scenario]) -> list[Difference]:
    """Every difference, in the order of the recordings."""
    gate = asyncio.Semaphore(AT_ONCE_COUNT)
    tags = random.sample(TAGS, len(scenarios))
    async with (
        grpc.aio.insecure_channel(target.controller) as channel,
        httpx.AsyncClient(base_url=target.rest, timeout=CALL_TIMEOUT_S) as client,
    ):

        async def one(scenario: Scenario, tag: str) -> list[Difference]:
            async with gate:
                return await _Replay(channel, client, scenario, tag).run()

        found = await asyncio.gather(*map(one, scenarios, tags))
    return [difference for differences in found for difference in differences]


class _Replay:
    """One scenario with what was bound in it."""

    def __init__(
        self, channel: grpc.aio.Channel, client: httpx.AsyncClient, scenario: Scenario, tag: str
    ) -> None:
        self._stub = controller_pb2_grpc.ControllerServiceStub(channel)
        self._client, self._tag = client, tag
        self._name, self._steps = scenario
        self._texts: dict[str, str] = {}
        self._numbers: dict[int, int] = {}
        self._transactions: dict[tuple[int, int], tuple[int, int]] = {}
        self._differences: list[Difference] = []

    async def run(self) -> list[Difference]:
        for step in self._steps:
            await asyncio.sleep(step.get("wait_ms", 0) / 1000)
            deadline = time.monotonic() + UNTIL_TIMEOUT_S
            while True:
                status, live = await self._call(step)
                if "until" not in step or contains(live, step["until"]):
                    break
                if time.monotonic() > deadline:
                    break
                await asyncio.sleep(UNTIL_PAUSE_S)
            self._judge(step, status, live)
        return self._differences

    # --- calling -------------------------------------------------------------------------

    async def _call(self, step: Step) -> tuple[str, Any]:
        if "method" in step:
            return await self._rest(step)
        request = self._live(step["request"])
        if step["rpc"] == "~append":
            return "OK", {"offset": await self._append(request)}
        if "scaleTimestamp" in request:
            request["scaleTimestamp"] = int(time.time() * 1000)
        status, reply = await self._rpc(step["rpc"], request)
        if step.get("pages") and reply is not None:
            await self._further_pages(step["rpc"], request, reply)
        return status, reply

    async def _rpc(self, name: str, request: Any) -> tuple[str, Any]:
        method = _METHODS[name]
        message = json_format.ParseDict(request, getattr(pb, method.input_type.name)())
        try:
            reply = await getattr(self._stub, name)(message, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return error.code().name, None
        return "OK", self._recorded(plain(reply))

    async def _further_pages(self, name: str, request: Any, whole: Any) -> None:
        """All elements of a listing, up to its empty page, in `whole`."""
        elements = next(key for key, value in whole.items() if isinstance(value, list))
        page = whole
        while page[elements]:
            request["continuationToken"] = page["continuationToken"]
            _, page = await self._rpc(name, request)
            whole[elements] += page[elements]

    async def _rest(self, step: Step) -> tuple[str, Any]:
        path, body = self._live(step["path"]), self._live(step["body"])
        content = None
        headers = dict(step.get("headers", {}))
        if body is not None:
            content = body if isinstance(body, str) else json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        reply = await self._client.request(step["method"], path, content=content, headers=headers)
        if not reply.content:
            return str(reply.status_code), None
        if reply.headers.get("content-type", "").startswith("application/json"):
            return str(reply.status_code), self._recorded(reply.json())
        return str(reply.status_code), f"({reply.headers.get('content-type')})"

    async def _append(self, request: Any) -> int:
        """The segment's length after one append of `count` events of `size` bytes each."""
        scope, stream, number = request["scope"], request["stream"], request["segmentId"]
        info = pb.StreamInfo(scope=scope, stream=stream)
        uri = await self._stub.getURI(pb.SegmentId(streamInfo=info, segmentId=number))
        segment = segment_name(scope, stream, number)
        if "txnId" in request:
            high, low = request["txnId"]["highBits"], request["txnId"]["lowBits"]
            segment = transaction_segment_name(segment, uuid.UUID(int=high << 64 | low))

        async def locate(_: str) -> tuple[str, int]:
            return uri.endpoint, uri.port

        size, count = request["size"], request.get("count", 1)
        event = (0).to_bytes(4) + size.to_bytes(4) + bytes(size)
        pool = SegmentStorePool()
        try:
            store = SegmentStoreClient(pool, locate, SystemClock(), chance=random.Random())
            length = await store.append(
                segment, uuid.uuid4(), event * count, event_number=count, event_count=count
            )
        finally:
            await pool.close()
        assert length is not None, "a fresh writer has stored nothing before"
        return length

    # --- between recorded and live values --------------------------------------------------

    def _live(self, recorded: Any) -> Any:
        """A recorded request with the names and made-up values of this run."""
        if isinstance(recorded, str):
            text = self._texts.get(recorded, recorded).replace(TAG, self._tag)
            for number, live in self._numbers.items():  # times in the path of a REST call
                text = text.replace(str(number), str(live))
            return text
        if isinstance(recorded, list):
            return [self._live(one) for one in recorded]
        if isinstance(recorded, dict):
            found = {self._live(key): self._live(value) for key, value in recorded.items()}
            ids = (recorded.get("highBits"), recorded.get("lowBits"))
            if ids in self._transactions:
                found["highBits"], found["lowBits"] = self._transactions[ids]
            return found
        return recorded

    def _recorded(self, live: Any) -> Any:
        """An answer with the recording's tag in its names."""
        return json.loads(json.dumps(live).replace(self._tag, TAG))

    # --- comparing -----------------------------------------------------------------------

    def _judge(self, step: Step, status: str, live: Any) -> None:
        if step.get("quirk"):
            if "instead" in step and not contains(live, step["instead"]):
                self._differ(step, "instead", step["instead"], live)
            return
        recorded_status = str(step.get("status", step.get("grpc_status")))
        if status != recorded_status:
            if (recorded_status, status) not in KINDER_CODES:
                self._differ(step, "status", recorded_status, status)
            return
        vary = step.get("vary", [])
        if "*" in vary:
            return
        recorded = step["response"]
        if isinstance(recorded, str) and recorded.startswith("("):  # a page of the web server
            return
        if isinstance(recorded, dict) and isinstance(live, dict):
            recorded = {key: value for key, value in recorded.items() if key not in vary}
            live = {key: value for key, value in live.items() if key not in vary}
        self._compare(step, "", recorded, live)

    def _compare(self, step: Step, place: str, recorded: Any, live: Any) -> None:
        name = place.rpartition(".")[2]
        if isinstance(recorded, dict) and isinstance(live, dict):
            if recorded.keys() == {"highBits", "lowBits"}:
                self._compare_transaction(step, place, recorded, live)
                return
            for key in sorted(recorded.keys() | live.keys()):
                inner = f"{place}.{key}" if place else key
                self._compare(step, inner, recorded.get(key, ABSENT), live.get(key, ABSENT))
        elif isinstance(recorded, list) and isinstance(live, list):
            self._compare_lists(step, place, name, recorded, live)
        elif not self._is_made_up(step, name, recorded, live) and not _equal(recorded, live):
            self._differ(step, place, recorded, live)

    def _compare_lists(
        self, step: Step, place: str, name: str, recorded: list[Any], live: list[Any]
    ) -> None:
        if name == "scopes":  # those of other scenarios and runs are listed, too
            live = [one for one in live if "_system" in str(one) or TAG in str(one)]
        in_order = any(one in _call_name(step) for one in SEGMENTS_IN_ORDER)
        if name in AS_SETS or (name == "segments" and not in_order):
            recorded = sorted(recorded, key=_sorting_key)
            live = sorted(live, key=_sorting_key)
        if len(recorded) != len(live):
            self._differ(step, f"{place}.length", recorded, live)
            return
        for one, other in zip(recorded, live, strict=True):
            self._compare(step, place, one, other)

    def _compare_transaction(self, step: Step, place: str, recorded: Any, live: Any) -> None:
        before = (recorded["highBits"], recorded["lowBits"])
        now = (live["highBits"], live["lowBits"])
        if min(now) < 0 or now[0] >> 32 != before[0] >> 32:
            self._differ(step, place, recorded, live)
        elif self._transactions.setdefault(before, now) != now:
            self._differ(step, place, self._transactions[before], now)

    def _is_made_up(self, step: Step, name: str, recorded: Any, live: Any) -> bool:
        """Binds what the server drew by itself."""
        match name:
            case "token":
                if recorded:
                    self._texts[recorded] = live
                return isinstance(live, str)
            case "readerGroupId":
                if not recorded or recorded[:8] == recorded[0] * 8:
                    return False  # chosen by the scenario, so it must come back
                return self._texts.setdefault(recorded, live) == live
            case "endpoint":
                return bool(live) and "_" not in live
            case "port":
                return isinstance(live, int) and live > 0
            case "timestamp" | "start" if "path" in step:
                return self._numbers.setdefault(recorded, live) == live
        return False

    def _differ(self, step: Step, place: str, recorded: Any, live: Any) -> None:
        self._differences.append(
            Difference(self._name, step["step"], _call_name(step), place, recorded, live)
        )


ABSENT: Final = "(absent)"
_METHODS: Final = {
    method.name: method for method in pb.DESCRIPTOR.services_by_name["ControllerService"].methods
}


def _call_name(step: Step) -> str:
    return str(step.get("rpc") or f"{step['method']} {step['path']}")


def _sorting_key(value: Any) -> str:
    """The same for what differs only in what servers make up."""
    if isinstance(value, dict):
        value = {key: one for key, one in value.items() if key not in MADE_UP}
    return json.dumps(value, sort_keys=True)


def _equal(recorded: Any, live: Any) -> bool:
    if recorded == ALMOST_ONE and live == 1.0:  # the last bound, which clients want to be 1
        return True
    return bool(recorded == live) and isinstance(recorded, bool) == isinstance(live, bool)


def contains(live: Any, wanted: Any) -> bool:
    """Whether every member of `wanted` is in `live` with that value."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(
            contains(live.get(key), value) for key, value in wanted.items()
        )
    return bool(live == wanted)


def plain(message: Message) -> dict[str, Any]:
    """A message as the recordings have it: all fields, absent messages null, enums by name."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            found[field.name] = {str(key): _leaf(inner, value[key]) for key in sorted(value)}
        elif field.is_repeated:
            found[field.name] = [_leaf(field, one) for one in value]
        elif field.message_type is not None and not message.HasField(field.name):
            found[field.name] = None
        else:
            found[field.name] = _leaf(field, value)
    return found


def _leaf(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description="Replay recorded calls to a controller.")
    parser.add_argument("--controller", required=True, help="host:port")
    parser.add_argument("--rest", required=True, help="URL")
    parser.add_argument("--only", default="*", help="pattern of the scenarios' names")
    given = parser.parse_args()
    scenarios = [one for one in recorded_scenarios() if fnmatch.fnmatch(one[0], given.only)]
    target = Target(given.controller.removeprefix("tcp://"), given.rest)
    differences = asyncio.run(replay(target, scenarios))
    for difference in differences:
        print(difference)
    print(f"{sum(len(steps) for _, steps in scenarios)} calls, {len(differences)} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
