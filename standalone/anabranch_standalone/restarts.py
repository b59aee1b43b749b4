"""When a dead child is started again: a pure rule.

The first death is answered at once, for a client waits; each further one within the window
doubles the pause. Too many in the window, or an end that says "my settings are wrong", and
the cluster gives up: a restart would not help. While the cluster has not been ready yet,
fewer deaths are enough, for somebody waits at a terminal.
"""

from __future__ import annotations

from typing import Final, NamedTuple

WINDOW_S: Final = 60.0
DEATHS_MAX: Final = 8  # within the window; by then the pauses have added up to about 12 s
DEATHS_BEFORE_READY_MAX: Final = 2
PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
EXIT_USAGE: Final = 2  # what the services end with when their settings are wrong


class Restart(NamedTuple):
    pause_s: float


class GiveUp(NamedTuple):
    reason: str


def decide(deaths: list[float], exit_code: int, *, was_ready: bool) -> Restart | GiveUp:
    """`deaths`: when this child died, in seconds, the newest last; at least one."""
    assert deaths, "asked after a death"
    if exit_code == EXIT_USAGE:
        return GiveUp("it refuses its settings")
    recent = [at for at in deaths if deaths[-1] - at <= WINDOW_S]
    if not was_ready and len(recent) > DEATHS_BEFORE_READY_MAX:
        return GiveUp(f"it died {len(recent)} times before the cluster was ready")
    if len(recent) > DEATHS_MAX:
        return GiveUp(f"it died {len(recent)} times within {WINDOW_S:.0f} s")
    if len(recent) == 1:
        return Restart(0.0)
    return Restart(min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** (len(recent) - 2)))
