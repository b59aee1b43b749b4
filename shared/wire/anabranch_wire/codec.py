"""Commands to frames and back: two short loops over the table in `layouts.py`.

`decode` reads the fields that a command has, takes the default of an optional field when the
frame ends before it, and skips what is left: newer peers append fields. `encode` always writes
all fields, in the newest layout, as Pravega's server does for every peer.

`hot.py` has shorter paths for the commands of appends and reads.
"""

from struct import Struct, error
from typing import Final, cast

from anabranch_wire import commands as c
from anabranch_wire.constants import PAYLOAD_BYTES_MAX
from anabranch_wire.errors import (
    EmptyTableKey,
    EncodingError,
    MalformedFrame,
    UnexpectedCommand,
    UnknownCommand,
)
from anabranch_wire.hot import DECODERS, encode_quickly
from anabranch_wire.layouts import BY_CODE, BY_COMMAND, Direction, Layout
from anabranch_wire.primitives import EmptyKeyError, FieldError, Parts

JOINED_BYTES_MAX: Final = 16 * 1024  # smaller data is copied: one part costs less than three

_HEADER = Struct(">ii")
_FROM_CLIENT = frozenset({Direction.REQUEST, Direction.BOTH})
_FROM_SERVER = frozenset({Direction.REPLY, Direction.BOTH})


# --- Encoding --------------------------------------------------------------------------------


def encode(command: c.Command) -> bytes:
    """The frame of a command; raises EncodingError when a field or the whole is too long."""
    return b"".join(_parts(command))


def encode_parts(command: c.Command) -> list[c.Data]:
    """The frame in pieces, of which big data is the caller's own object, not a copy of it."""
    parts = _parts(command)
    merged: list[c.Data] = []
    start = 0
    for index, part in enumerate(parts):
        if len(part) > JOINED_BYTES_MAX:
            if start < index:
                merged.append(b"".join(parts[start:index]))
            merged.append(part)
            start = index + 1
    if start < len(parts):
        merged.append(b"".join(parts[start:]))
    return merged


def _parts(command: c.Command) -> Parts:
    return _parts_quickly(command) or _parts_by_table(command)


def _parts_quickly(command: c.Command) -> Parts | None:
    try:
        return encode_quickly(command)
    except (FieldError, error, TypeError):
        return None  # the loop says which field it is


def _parts_by_table(command: c.Command) -> Parts:
    layout = BY_COMMAND[type(command)]
    parts: Parts = [b""]  # the first is the header, whose length is known last
    for field, value in zip(layout.fields, command, strict=True):
        try:
            field.kind.write(parts, value)
        except (FieldError, error, TypeError) as problem:
            raise EncodingError(layout.command.__name__, field.name, str(problem)) from problem
    parts[0] = _header(layout, sum(map(len, parts)))
    return parts


def _header(layout: Layout, length: int) -> bytes:
    if length > PAYLOAD_BYTES_MAX:
        raise EncodingError(
            layout.command.__name__, "payload", f"{length} bytes, the limit is {PAYLOAD_BYTES_MAX}"
        )
    return _HEADER.pack(layout.code, length)


# --- Decoding --------------------------------------------------------------------------------


def decode(code: int, payload: c.Data) -> c.Command:
    """The command in a frame, whoever may send it.

    Raises UnknownCommand, MalformedFrame or EmptyTableKey. Data fields are slices of `payload`:
    copies if it is `bytes`, windows that keep it alive if it is a memoryview.
    """
    quick = DECODERS.get(code)
    if quick is not None:
        command = quick(payload)
        if command is not None:
            return command
    return _decode_by_table(code, payload)


def _decode_by_table(code: int, payload: c.Data) -> c.Command:
    layout = BY_CODE.get(code)
    if layout is None:
        raise UnknownCommand(code)
    return _read(layout, payload)


def decode_request(code: int, payload: c.Data, *, admin: bool = False) -> c.Request:
    """As `decode`, for a server: raises UnexpectedCommand for what a client may not send.

    A bare Event, a top-level PartialEvent and all replies are such; a top-level Padding is
    let through, for AppendAssembler to ignore. With `admin` the administrative requests are
    let through too, and appends are not.
    """
    if code in (_ADMIN_REQUESTS if admin else _REQUESTS):
        return cast(c.Request, decode(code, payload))  # a test holds the table against the union
    layout = BY_CODE.get(code)
    if layout is None:
        raise UnknownCommand(code)
    expected = "a request of the administrative port" if admin else "a request"
    raise UnexpectedCommand(code, layout.command.__name__, expected)


def decode_reply(code: int, payload: c.Data) -> c.Reply:
    """As `decode`, for a client: raises UnexpectedCommand for what a server may not send."""
    layout = BY_CODE.get(code)
    if layout is None:
        raise UnknownCommand(code)
    if layout.direction not in _FROM_SERVER:
        raise UnexpectedCommand(code, layout.command.__name__, "a reply")
    return cast(c.Reply, decode(code, payload))  # a test holds the table against the union


def _read(layout: Layout, payload: c.Data) -> c.Command:
    values: list[object] = []
    offset, end = 0, len(payload)
    for field in layout.fields:
        if end - offset < field.least_bytes:
            values.append(layout.command._field_defaults[field.name])
            continue
        try:
            value, offset = field.kind.read(payload, offset)
        except EmptyKeyError as problem:
            request_id, segment = values[0], values[1]
            assert isinstance(request_id, int), "every table command begins with its request id"
            assert isinstance(segment, str), "and names its segment behind it"
            raise EmptyTableKey(
                layout.code, layout.command.__name__, request_id, segment
            ) from problem
        except FieldError as problem:
            raise _malformed(layout, field.name, str(problem)) from problem
        except error as problem:
            raise _malformed(layout, field.name, f"is cut short after {end} bytes") from problem
        values.append(value)
    return layout.command._make(values)


def _malformed(layout: Layout, field: str, problem: str) -> MalformedFrame:
    return MalformedFrame(layout.code, layout.command.__name__, field, problem)


_APPENDS = frozenset({1, 3, 4, 5, 89})
_PADDING = -1
_REQUESTS = frozenset(
    {layout.code for layout in BY_CODE.values() if layout.direction in _FROM_CLIENT} | {_PADDING}
)
_ADMIN_REQUESTS = frozenset(
    (_REQUESTS - _APPENDS)
    | {layout.code for layout in BY_CODE.values() if layout.direction is Direction.ADMIN}
)
