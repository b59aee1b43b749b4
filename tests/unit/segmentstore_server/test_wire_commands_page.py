"""docs/wire-commands.md says what is true: each command, its test, and where it was recorded."""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from anabranch_wire.layouts import TABLE, Direction

HERE: Final = Path(__file__).parent
PAGE: Final = HERE.parents[2] / "docs" / "wire-commands.md"
RECORDING: Final = HERE.parents[1] / "golden" / "wire.jsonl"
DIRECTIONS: Final = {
    Direction.REQUEST: "request",
    Direction.REPLY: "reply",
    Direction.BOTH: "both ways",
    Direction.INNER: "inside a frame",
    Direction.ADMIN: "request, administrative port",
}
NEVER_RECORDED: Final = {
    "OffsetLocated": "the recorded server is older than the command",
    "WrongHost": "the recorded server was alone",
    "AuthTokenCheckFailed": "recorded with authorization only",
}


class Row(NamedTuple):
    code: str
    command: str
    direction: str
    since: str
    what: str
    test: str
    exchange: str


def rows() -> list[Row]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    return [Row(*(cell.strip() for cell in line.split("|")[1:-1])) for line in lines[2:]]


ROWS: Final = rows()


@cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((HERE / file).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


@cache
def recorded() -> dict[str, dict[str, Any]]:
    exchanges = map(json.loads, RECORDING.read_text().splitlines())
    return {exchange["name"]: exchange for exchange in exchanges}


def test_every_command_is_on_the_page_as_the_codec_has_it() -> None:
    """Whoever writes a client or looks for a fault would read of a protocol that is not spoken."""
    assert len(TABLE) == 70
    assert [row[:4] for row in ROWS] == [
        (
            str(layout.code),
            layout.command.__name__,
            DIRECTIONS[layout.direction],
            str(layout.since),
        )
        for layout in TABLE
    ]
    assert all(row.what for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.command)
def test_the_test_of_a_command_exists(row: Row) -> None:
    """A command could lose its test without anybody noticing."""
    file, _, function = row.test.strip("`").partition("::")
    assert function.startswith("test_")
    assert function in functions_of(file)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.command)
def test_the_recorded_exchange_has_the_command(row: Row) -> None:
    """The page would send a reader to an exchange that shows something else."""
    if row.command in NEVER_RECORDED:
        assert not row.exchange
        return
    exchange = recorded()[row.exchange.strip("`")]
    assert not exchange.get("auth")
    assert not exchange.get("destructive")
    steps = exchange["steps"]
    fields = [
        step[kind] for step in steps for kind in ("send_fields", "recv_fields") if kind in step
    ]
    shown = json.dumps(fields)
    is_inside = row.direction == "inside a frame"
    assert is_inside or row.command in {each.get("type") for each in fields}, shown


def test_no_exchange_is_recorded_for_what_is_said_to_be_unrecorded() -> None:
    """A recording that comes later would never be named."""
    ordinary = [one for one in recorded().values() if not one.get("auth")]
    received = {
        step["recv_fields"].get("type")
        for one in ordinary
        for step in one["steps"]
        if "recv_fields" in step
    }
    assert not received & set(NEVER_RECORDED)
