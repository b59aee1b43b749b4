"""What people see while the demo runs, on stderr: lines that stay and one that moves."""

from __future__ import annotations

import sys
from typing import Final, TextIO

# Into a file the moving line goes only so often, once per hour of taxi time.
WIDTH_MAX: Final = 160


class Screen:
    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._is_terminal = self._out.isatty()
        self._moving = ""
        self._chapter = ""

    def say(self, line: str) -> None:
        """A line that stays."""
        self._clear()
        print(line, file=self._out)
        self._show()

    def progress(self, line: str, *, chapter: str) -> None:
        """The moving line; where nothing can move, the first one of each chapter stays."""
        if self._is_terminal:
            self._clear()
            self._moving = line[:WIDTH_MAX]
            self._show()
        elif chapter != self._chapter:
            print(line, file=self._out, flush=True)
        self._chapter = chapter

    def close(self) -> None:
        self._clear()
        self._moving = ""
        self._out.flush()

    def _clear(self) -> None:
        if self._is_terminal and self._moving:
            self._out.write("\r\x1b[K")

    def _show(self) -> None:
        if self._is_terminal:
            self._out.write(self._moving)
        self._out.flush()
