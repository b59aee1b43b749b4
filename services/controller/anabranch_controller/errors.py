"""The ways in which a call to the controller can fail; the gRPC edge maps each to one code.

What a caller may do about it is in the class: NotFound and InvalidArgument are final,
Conflict and Unavailable are worth a retry, and Timeout means *unknown*: the work goes on.
"""

from __future__ import annotations


class ControllerError(Exception):
    """Base of everything that the controller tells its callers."""


class NotFound(ControllerError):
    """No such thing. `kind` is "stream", "epoch", "transaction", ..."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"no {kind} {name}")
        self.kind, self.name = kind, name


class InvalidArgument(ControllerError):
    """The request can never succeed as it is."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what, self.why = what, why


class IllegalState(ControllerError):
    """The thing exists, but is not in a state that allows the call."""

    def __init__(self, name: str, state: str, why: str) -> None:
        super().__init__(f"{name} is {state}: {why}")
        self.name, self.state, self.why = name, state, why


class Conflict(ControllerError):
    """Other callers were faster each time; nothing happened. Worth a retry."""

    def __init__(self, name: str, attempts_count: int) -> None:
        super().__init__(f"{name} changed under {attempts_count} attempts, try again")
        self.name, self.attempts_count = name, attempts_count


class Unavailable(ControllerError):
    """A part that the call needs does not answer; whether anything happened is unknown."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.what, self.reason = what, reason


class Timeout(ControllerError):
    """The outcome did not come in time. It is unknown, and the work goes on."""

    def __init__(self, what: str, waited_s: float) -> None:
        super().__init__(f"{what} did not end within {waited_s:.0f} s; it goes on")
        self.what, self.waited_s = what, waited_s
