"""What the autoscaler says to the cluster, besides what the ports of the kit offer."""

from __future__ import annotations

from typing import Protocol

from anabranch_events.bus import ScaleAnswer, ScaleCommand, StreamRates
from anabranch_events.feed import StreamWarning


class Unanswered(Exception):
    """No controller answered in time; whether the scale began is unknown."""

    def __init__(self, command: ScaleCommand, reason: str) -> None:
        super().__init__(f"scale of {command.scope}/{command.stream}: {reason}")
        self.command, self.reason = command, reason


class Untold(Exception):
    """A notice did not reach the bus."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"{subject}: {reason}")
        self.subject, self.reason = subject, reason


class Cluster(Protocol):
    async def scale(self, command: ScaleCommand) -> ScaleAnswer:
        """Ask the controllers. Raises Unanswered."""
        ...

    async def show_rates(self, rates: StreamRates) -> None:
        """Raises Untold."""
        ...

    async def warn(self, warning: StreamWarning, *, key: str, at_ms: int) -> None:
        """Tell the public feed, once per `key`. Raises Untold."""
        ...
