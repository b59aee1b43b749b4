"""Every frame of the recorded exchanges with Pravega 0.13.0: read, compared, written again.

The recording (`tests/golden/wire.jsonl`) holds what was sent, partly wrong on purpose, and what
came back, beside the fields that another decoder found in it.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from anabranch_wire import codec
from anabranch_wire import commands as c
from anabranch_wire.errors import ProtocolError
from anabranch_wire.framing import FrameSplitter

RECORDING = Path(__file__).parents[2] / "golden" / "wire.jsonl"


class Recorded(NamedTuple):
    exchange: str
    frame: bytes
    fields: dict[str, Any]
    was_sent: bool


def recorded() -> Iterator[Recorded]:
    for line in RECORDING.read_text().splitlines():
        exchange = json.loads(line)
        for step in exchange["steps"]:
            for way in ("send", "recv"):
                if way in step:
                    frame = bytes.fromhex(step[way])
                elif way + "_z" in step:
                    frame = zlib.decompress(base64.b64decode(step[way + "_z"]))
                else:
                    continue
                fields = step.get(way + "_fields", {})
                yield Recorded(exchange["name"], frame, fields, way == "send")


FRAMES = list(recorded())


# Sent on purpose to see what the server does; Pravega closed the connection, and so do we.
REFUSED = {
    "hello-short": "four bytes",
    "unknown-type-after-good-request": "type 99",
    "pipeline-request-then-garbage": "type 99",
    "merge-table-segments-72": "a retired type",
    "length-negative": "-1 bytes",
    "length-over-maximum": "one byte more than a frame may have",
    "append-over-frame-maximum": "the same with an append",
    "garbage-http": "GET / HTTP/1.1",
    "garbage-tls-client-hello": "a TLS handshake",
    "payload-empty-request": "CreateSegment without a payload",
    "payload-cut-in-string": "a string longer than the frame",
    "conditional-append-wrong-event-type": "something else than an event inside",
    "conditional-block-end-short": "its request id is not optional",
    "table-key-empty": "Pravega takes it and damages a container",
}
# Read as recorded, but written with all fields and without the bytes that nobody knows.
WRITTEN_OTHERWISE = {
    "hello-long": "bytes behind the last field",
    "payload-trailing-bytes": "bytes behind the last field",
    "create-short": "Rust's form",
    "table-iterate-hash-short": "Rust's form",
    "block-end-without-request-id": "an old form",
    "conditional-append-without-request-id": "an old form",
    "read-without-request-id": "an old form",
    "create-name-emoji-standard-utf8": "we write Java's form of UTF-8",
}
# Frames that the recording sends in pieces, or only begins.
CUT = {"frame-in-pieces", "length-maximum"}


def is_refused(each: Recorded) -> bool:
    try:
        ((code, payload),) = FrameSplitter().receive(each.frame)
        codec.decode(code, payload)
    except ProtocolError:
        return True
    return False


def snake_case(name: str) -> str:
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name)


def agrees(ours: object, theirs: object) -> bool:
    if isinstance(ours, bytes | memoryview):
        if isinstance(theirs, dict):
            digest = hashlib.sha256(ours).hexdigest()[:16]
            return (len(ours), digest) == (theirs["bytes"], theirs["sha256"])
        return bytes(ours).hex() == theirs
    return str(ours) == str(theirs)


def flat(value: object) -> list[object]:
    """The leaves of a structure in order, whatever names its levels have."""
    if isinstance(value, dict) and set(value) != {"bytes", "sha256"}:
        return [leaf for part in value.values() for leaf in flat(part)]
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in flat(part)]
    return [value]


WHOLE = [each for each in FRAMES if each.exchange not in CUT]
READABLE = [each for each in WHOLE if not is_refused(each)]


def command_of(each: Recorded) -> c.Command:
    ((code, payload),) = FrameSplitter().receive(each.frame)
    return codec.decode(code, payload)


def test_what_is_refused_is_wrong_on_purpose() -> None:
    """A frame that Pravega takes would cost our client its connection."""
    refused = {each.exchange for each in WHOLE if is_refused(each)}
    unknown_types = {name for name in refused if name.startswith("unknown-type-")}
    assert refused - unknown_types == REFUSED.keys() - unknown_types
    assert REFUSED.keys() <= refused
    assert all(each.was_sent for each in WHOLE if is_refused(each))


def test_fields_are_read_as_recorded() -> None:
    """A field of a real frame would be taken for another one."""
    compared = 0
    for each in READABLE:
        command = command_of(each)
        assert type(command).__name__ == each.fields["type"]
        for name, theirs in each.fields.items():
            if name in ("type", "trailing", "undecoded") or isinstance(command, c.Padding):
                continue
            ours = getattr(command, snake_case(name))
            # The recording shows the type in the header of an event as well.
            left, right = flat((0, ours) if name == "event" else ours), flat(theirs)
            assert len(left) == len(right), (each.exchange, name)
            assert all(map(agrees, left, right)), (each.exchange, name, left, right)
            compared += 1
    assert compared > 5000


def test_frames_are_written_to_the_byte() -> None:
    """An unmodified client would read something else than what Pravega sends."""
    otherwise = {each.exchange for each in READABLE if codec.encode(command_of(each)) != each.frame}
    assert otherwise == WRITTEN_OTHERWISE.keys()


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_pieces_give_the_same_frames(step: int) -> None:
    """The network cuts where it likes."""
    splitter = FrameSplitter()
    small = [each.frame for each in READABLE if len(each.frame) < 20_000 or step > 1000]
    stream = b"".join(small)
    frames = [
        frame
        for at in range(0, len(stream), step)
        for frame in splitter.receive(stream[at : at + step])
    ]
    assert len(frames) == len(small) > 1500
    assert splitter.is_between_frames


def test_both_sides_understand_each_other() -> None:
    """What our client writes for each recorded request, our server reads, and back."""
    to_server, to_client = FrameSplitter(), FrameSplitter()
    for each in READABLE:
        command = command_of(each)
        splitter = to_server if each.was_sent else to_client
        parts = codec.encode_parts(command)
        ((code, payload),) = (frame for part in parts for frame in splitter.receive(part))
        assert codec.decode(code, payload) == command
