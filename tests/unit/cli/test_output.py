"""What the commands print: the same fields as a table and as JSON."""

from __future__ import annotations

import io
import json

import pytest
from anabranch_cli.output import ExitCode, Format, Problem, emit, emit_one, fail

ROWS = [
    {"container": 0, "segmentstore": "segmentstore-0", "epoch": 3},
    {"container": 11, "segmentstore": None, "epoch": None},
]


def printed(rows, output: Format) -> str:
    stream = io.StringIO()
    emit(rows, output, to=stream)
    return stream.getvalue()


def test_a_table_has_the_field_names_as_headings_and_aligned_columns() -> None:
    """Columns that do not line up cannot be read."""
    assert printed(ROWS, Format.TABLE).splitlines() == [
        "container  segmentstore    epoch",
        "0          segmentstore-0  3",
        "11         -               -",
    ]


def test_json_is_one_array_and_jsonl_one_object_a_line() -> None:
    """A script could not parse the output."""
    assert json.loads(printed(ROWS, Format.JSON)) == ROWS
    assert [json.loads(line) for line in printed(ROWS, Format.JSONL).splitlines()] == ROWS


def test_no_rows_are_an_empty_array_and_an_empty_table() -> None:
    """A script would fail on an empty cluster."""
    assert printed([], Format.JSON) == "[]\n"
    assert printed([], Format.TABLE) == ""


def test_one_object_is_not_wrapped_in_an_array() -> None:
    """`cluster where` has one answer, not a list of one."""
    stream = io.StringIO()
    emit_one(ROWS[0], Format.JSON, to=stream)
    assert json.loads(stream.getvalue()) == ROWS[0]
    stream = io.StringIO()
    emit_one({"a": 1, "long": "x"}, Format.TABLE, to=stream)
    assert stream.getvalue() == "a     1\nlong  x\n"


def test_a_problem_goes_to_stderr_with_a_hint_and_its_exit_code(capsys) -> None:
    """An error on stdout would be taken for data."""
    with pytest.raises(SystemExit) as raised:
        fail(Problem("no such thing", hint="another thing", code=ExitCode.NOT_FOUND))
    assert raised.value.code == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: no such thing\n  try: another thing\n"
