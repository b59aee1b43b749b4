"""Time as an argument, so that a simulation can move it and a seed replays a failure."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall time for what people read, monotonic time for every duration and deadline."""

    def now_ms(self) -> int:
        """Milliseconds since 1970 in UTC. It may jump: never subtract two of them."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary point; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; zero gives other tasks a turn."""
        ...
