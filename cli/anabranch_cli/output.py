"""How every command speaks: data on stdout, all else on stderr, one exit code per kind of end.

Rows are flat mappings with the same keys in the same order; the keys are the documented field
names of `-o json` and `-o jsonl` and the headings of the table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import Annotated, Final, NoReturn, TextIO

import typer

Row = Mapping[str, object]

COLUMN_GAP: Final = "  "


class ExitCode(IntEnum):
    """What a script can tell apart. 2 is also what the parser gives for wrong usage."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    REFUSED = 5
    TIMED_OUT = 6
    INTERRUPTED = 130


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


class Problem(Exception):
    """Something that the user can act on: what happened, and what to try next."""

    def __init__(self, message: str, *, hint: str = "", code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message, self.hint, self.code = message, hint, code


FormatOption = Annotated[
    Format, typer.Option("--output", "-o", help="How to print the data.", show_default=True)
]


def emit(rows: Iterable[Row], output: Format, *, to: TextIO | None = None) -> None:
    """Print all rows: a table, one JSON array, or one JSON object a line."""
    stream = to or sys.stdout
    match output:
        case Format.TABLE:
            lines = table(list(rows))
        case Format.JSON:
            lines = [_json(list(rows))]
        case Format.JSONL:
            lines = [_json(row) for row in rows]
    for line in lines:
        print(line, file=stream)
    stream.flush()


def emit_one(row: Row, output: Format, *, to: TextIO | None = None) -> None:
    """Print one object: fields below each other, or one JSON object."""
    stream = to or sys.stdout
    if output is Format.TABLE:
        width = max((len(key) for key in row), default=0)
        lines = [f"{key.ljust(width)}{COLUMN_GAP}{_cell(value)}" for key, value in row.items()]
    else:
        lines = [_json(row)]
    for line in lines:
        print(line, file=stream)
    stream.flush()


def table(rows: Sequence[Row]) -> list[str]:
    """Left-aligned columns under their names; no lines for no rows."""
    if not rows:
        return []
    names = list(rows[0])
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(row[i]) for row in [names, *cells]) for i in range(len(names))]
    return [
        COLUMN_GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [names, *cells]
    ]


def note(message: str) -> None:
    """Something for people, beside the data."""
    print(message, file=sys.stderr, flush=True)


def fail(problem: Problem) -> NoReturn:
    """The one way in which a command ends badly."""
    print(f"error: {problem.message}", file=sys.stderr)
    if problem.hint:
        print(f"  try: {problem.hint}", file=sys.stderr)
    sys.stderr.flush()
    raise SystemExit(int(problem.code))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ",".join(_cell(one) for one in value)
    return str(value)


def _json(value: object) -> str:
    # Imported here: a table needs no encoder, and `--help` shall feel instant.
    import msgspec

    return msgspec.json.encode(value).decode()
