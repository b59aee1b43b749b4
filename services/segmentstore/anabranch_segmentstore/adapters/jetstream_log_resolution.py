"""What became of a message whose publish was not acknowledged: a pure decision.

The message was published again, identical and with the same expected sequence. If it was refused
because the stream has moved on, whatever lies at its place tells the rest: each place is written
once, and behind the fence zone only one owner can have a message for it (jetstream_log_format).
So nothing is ever written on a new base: either it is there, or it goes to the very same place,
or this owner has lost the log.
"""

from __future__ import annotations

from typing import NamedTuple

from anabranch_segmentstore.adapters.jetstream_log_format import Stamp


class Leader(NamedTuple):
    """What the stream's leader told, asked in this order: newest epoch record, what lies at the
    place, and the ends of the stream. `at_place` is None when nothing is there, and a string
    (why) when it is no intact message."""

    newest_epoch: int
    at_place: Stamp | str | None
    first: int
    last: int


class Stored(NamedTuple):
    """It was our own success."""


class Resend(NamedTuple):
    """It is not there, nor anything after it: publish the identical message again."""


class Fenced(NamedTuple):
    newer_epoch: int


class Broken(NamedTuple):
    """The stream is not what it was; nothing may be acknowledged from here on."""

    reason: str


class Damaged(NamedTuple):
    reason: str


Verdict = Stored | Resend | Fenced | Broken | Damaged


def decide(mine: Stamp, confirmed: int, leader: Leader) -> Verdict:
    """`confirmed` is the newest place that was acknowledged to this owner."""
    found = leader.at_place
    if found == mine:
        return Stored()
    if leader.newest_epoch > mine.epoch:
        return Fenced(leader.newest_epoch)
    if leader.newest_epoch < mine.epoch:
        return Broken(f"the record of epoch {mine.epoch} is gone; was the stream replaced?")
    if isinstance(found, str):
        return Damaged(found)
    if found is not None:
        return Broken(
            f"place {mine.place} holds frame {found.position} of epoch {found.epoch}, written for "
            f"place {found.place}; does somebody else publish to this stream?"
        )
    if leader.last < confirmed:
        return Broken(
            f"the stream ends at {leader.last}; {confirmed} was acknowledged. The server lost it: "
            "does it sync before it acknowledges (sync_interval: always)?"
        )
    if leader.last >= mine.place:
        return Broken(f"message {mine.place} was removed from the stream")
    return Resend()
