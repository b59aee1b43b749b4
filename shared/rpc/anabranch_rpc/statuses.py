"""What goes wrong in a call, and the gRPC code that says so: the one table.

Expected outcomes (a stream exists already, a scope is not empty) travel in the replies'
own status enums. A gRPC error is left for what such an enum cannot say. Clients judge the
code alone, never the text, and the code decides what they do next (measured with the
Rust 0.3.7 client, read in the Java one): a code that is retried costs its user a minute,
so nothing permanent may get one.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import grpc


class Trouble(Enum):
    """Why a call has no reply."""

    MISSING = "missing"
    """The stream, epoch, transaction or table does not exist."""

    BAD_ARGUMENT = "bad argument"
    """The request can never succeed as it is."""

    REFUSED = "refused"
    """The rules forbid it in the present state, and waiting does not help."""

    CONFLICT = "conflict"
    """Something else was faster; the same request may succeed in a moment."""

    UNAVAILABLE = "unavailable"
    """A dependency is away, or no store serves the container; held as long as allowed."""

    OUTCOME_UNKNOWN = "outcome unknown"
    """The time is up; the work goes on, and the same request finds its result."""

    OVERLOADED = "overloaded"
    """A limit on concurrent calls is reached."""

    NOT_IMPLEMENTED = "not implemented"
    """This server does not offer the call."""

    BUG = "bug"
    """Our mistake, logged here with the request's id."""


CODES: Final[dict[Trouble, grpc.StatusCode]] = {
    Trouble.MISSING: grpc.StatusCode.NOT_FOUND,
    Trouble.BAD_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    # The exact code, FAILED_PRECONDITION, is one that both clients retry for a minute.
    Trouble.REFUSED: grpc.StatusCode.INVALID_ARGUMENT,
    Trouble.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    Trouble.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Trouble.OUTCOME_UNKNOWN: grpc.StatusCode.DEADLINE_EXCEEDED,
    Trouble.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Trouble.NOT_IMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    Trouble.BUG: grpc.StatusCode.INTERNAL,
}

RETRIED_BY_CLIENTS: Final = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)
"""Codes that both the Java and the Rust client answer by sending the request again."""

assert set(CODES) == set(Trouble), "every trouble has a code"
