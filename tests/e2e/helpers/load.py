"""The checker: writer and reader processes over one stream, and what they saw.

Each event is `key:n`. The next event read of a key must be exactly n + 1, which rules out
loss, doubling and reordering at once; at the end all that was acknowledged must have been read.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from helpers.cluster import die_with_parent, wait_until

HERE = Path(__file__).parent
END_LIMIT_S = 90.0


class Program:
    """A subprocess that prints JSON lines."""

    def __init__(self, script: str, *arguments: object) -> None:
        self.lines: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [sys.executable, HERE / script, *(str(a) for a in arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent(),
        )
        self._errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._collect, daemon=True),
            threading.Thread(target=self._collect_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _collect(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(json.loads(line))

    def _collect_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)

    def last(self, field: str, default: Any = None) -> Any:
        return next((line[field] for line in reversed(self.lines) if field in line), default)

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.close()

    def assert_alive(self) -> None:
        if self._process.poll() is not None:
            self._threads[1].join()  # the last words are in by then
            raise AssertionError(
                f"ended with {self._process.returncode} after {self.lines[-1:]}\n"
                f"{self.errors()[-3000:]}"
            )

    def errors(self) -> str:
        return "".join(self._errors)

    def end(self, limit_s: float = END_LIMIT_S) -> None:
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.lines[-3:]}\n{''.join(self._errors)[-3000:]}") from None
        for thread in self._threads:
            thread.join()
        assert self._process.returncode == 0, "".join(self._errors)[-3000:]

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def longest_gap_s(self, field: str, after: float) -> float:
        """The longest time without progress in `field` since the moment `after`."""
        moments, seen = [after], None
        for line in list(self.lines):
            if field in line and line[field] != seen:
                seen = line[field]
                if line["t"] >= after:
                    moments.append(line["t"])
        moments.append(time.monotonic())
        return max(b - a for a, b in itertools.pairwise(moments))


class Load:
    """One writer and one reader over a stream, as a context manager."""

    def __init__(
        self,
        controller: str,
        scope: str,
        stream: str,
        *,
        keys: int = 20,
        rate: float = 400,
        size: int = 100,
    ) -> None:
        self._where = (controller, scope, stream)
        self._writing = (keys, rate, size)

    def __enter__(self) -> Load:
        self.reader = Program("load_reader.py", *self._where, f"group{time.time_ns()}", "reader")
        self.writer = Program("load_writer.py", *self._where, *self._writing)
        wait_until(lambda: self.read > 0 or self._check_alive(), 30.0, "the first event is read")
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.kill()
        self.reader.kill()

    def _check_alive(self) -> bool:
        self.writer.assert_alive()
        self.reader.assert_alive()
        return False

    @property
    def acked(self) -> int:
        return int(self.writer.last("acked", 0))

    @property
    def read(self) -> int:
        return int(self.reader.last("read", 0))

    def wait_for_progress(self, events: int, limit_s: float = 30.0) -> None:
        """Until so many more events were acknowledged, and those were read."""
        goal = self.acked + events

        def reached() -> bool:
            self._check_alive()
            return self.acked >= goal and self.read >= goal

        try:
            wait_until(reached, limit_s, f"{events} more events written and read")
        except AssertionError as late:
            late.add_note(f"goal {goal}, acknowledged {self.acked}, read {self.read}")
            late.add_note(f"writer: {self.writer.errors()[-2000:]}")
            late.add_note(f"reader: {self.reader.errors()[-2000:]}")
            raise

    def finish(self) -> int:
        """Stop writing, read the rest, check all of it; the number of events."""
        self.writer.say("")
        self.writer.end()
        written = self.writer.last("final")
        self.reader.say(json.dumps(written))
        self.reader.end()
        violations = [line["violation"] for line in self.reader.lines if "violation" in line]
        assert violations == [], violations
        read = self.reader.last("final")
        missing = {
            key: n - m for key, (n, m) in enumerate(zip(written, read, strict=True)) if n != m
        }
        assert not missing, (
            f"of {sum(written)} acknowledged events {sum(missing.values())} were not read, "
            f"by key: {missing}\n{self.reader.errors()[-3000:]}"
        )
        return sum(written)
