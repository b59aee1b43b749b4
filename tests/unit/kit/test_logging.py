"""What a log line of a service looks like, seen from outside."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging, warnings
from anabranch_kit.logging import configure_logging, get_logger

early = get_logger("early", shard=1)
configure_logging(service="example", member="example-3", level="info", log_format={form!r})
early.info("made.before", bytes_count=3, raw=b"x", path=__import__("pathlib").Path("/p"))
get_logger().debug("not.shown")
logging.getLogger("library").warning("old style %d", 7)
logging.getLogger("asyncio").info("chatter")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("asyncio").exception("of a callback")
warnings.warn("deprecated thing")
"""


def run(form: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(form=form)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_every_line_is_json_with_its_process() -> None:
    """A log collector would lose lines, or not know which process wrote them."""
    lines = [json.loads(line) for line in run("json")]
    assert [line["event"] for line in lines][:3] == ["made.before", "old style 7", "of a callback"]
    assert "deprecated thing" in lines[3]["event"]
    assert {(line["service"], line["member"]) for line in lines} == {("example", "example-3")}
    assert [line["level"] for line in lines] == ["info", "warning", "error", "warning"]
    assert lines[0]["shard"] == 1
    assert lines[0]["path"] == "/p"
    assert "ZeroDivisionError" in lines[2]["exception"]


def test_console_is_for_people() -> None:
    """A developer would read JSON on a terminal."""
    lines = run("console")
    assert "made.before" in lines[0]
    assert not lines[0].startswith("{")
