"""What a retention policy lets go: which of the recorded cuts a stream is truncated at.

Once a period the stream's tail is recorded as a *retention cut*, with its time and the bytes
before it. A cut *retains* what comes after it: bytes up to the newest cut under a policy by
size, and the time since it was recorded under a policy by time. A policy has a minimum,
which is always retained, and a maximum, which holds only against subscribed reader groups:

* without subscribers the stream is truncated at the newest cut that retains the minimum;
* with subscribers at the earliest position that one of them still needs, as long as that
  retains no less than the minimum and no more than the maximum. Beyond the maximum data
  goes although nobody has read it.

The table of cases is Pravega's (reference, 6.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from anabranch_events.model import RetentionPolicy

from anabranch_controller.domain import cuts
from anabranch_controller.domain.cuts import Cut
from anabranch_controller.domain.history import Epochs

CUTS_MAX: Final = 1000
"""Of one stream, three weeks of half hours; beyond it every second cut is given up."""


class RetentionCut(msgspec.Struct, frozen=True):
    """`size_bytes` is what lies before the cut, counted from the very beginning."""

    cut: dict[int, int]
    recorded_ms: int
    size_bytes: int


Recorded = tuple[RetentionCut, ...]
"""In order of time, and so of position."""


def added(recorded: Recorded, new: RetentionCut) -> Recorded:
    """Thinned out when there are too many: the next truncation then keeps a little more."""
    if len(recorded) >= CUTS_MAX:
        recorded = recorded[::2]
    return (*recorded, new)


def after_truncation(epochs: Epochs, recorded: Recorded, head: Cut) -> Recorded:
    """The cuts that still lie ahead of the head of the stream."""
    for index in reversed(range(len(recorded))):
        if cuts.equal_or_after(epochs, head, recorded[index].cut):
            return recorded[index + 1 :]
    return recorded


def truncation_cut(
    policy: RetentionPolicy,
    epochs: Epochs,
    recorded: Recorded,
    *,
    bound: Cut,
    bound_size_bytes: int,
    now_ms: int,
) -> Cut | None:
    """Where to truncate now; None for nowhere, and where not is for the caller to see.

    `bound` is the earliest position of the subscribers, empty when there is none, and
    `bound_size_bytes` what lies before it.
    """
    if not recorded:
        return None
    newest = recorded[-1]

    def retained(one: RetentionCut) -> int:
        if policy.retention_type == "size":
            return newest.size_bytes - one.size_bytes
        return now_ms - one.recorded_ms

    enough = [one for one in recorded if retained(one) >= policy.minimum]
    if not enough:
        least = most = None
    else:
        least = min(enough, key=retained)
        within = [one for one in enough if retained(one) <= policy.maximum]
        most = max(within, key=retained) if within else least
    if not bound:
        return None if least is None else least.cut
    if policy.retention_type == "size":
        remaining_bytes = newest.size_bytes - bound_size_bytes
        if policy.minimum <= remaining_bytes:
            if remaining_bytes < policy.maximum or most is None:
                return bound
            return most.cut if retained(most) < remaining_bytes else bound
        return _before_or_at(epochs, recorded, least, bound)
    if least is None:
        return None
    if most is None or cuts.compare(epochs, least.cut, bound) != "equal-or-after":
        return _before_or_at(epochs, recorded, least, bound)
    beyond = [one for one in recorded if retained(one) >= policy.maximum]
    if not beyond:
        return bound
    limit = min(beyond, key=retained)
    match cuts.compare(epochs, bound, limit.cut):
        case "equal-or-after":
            return bound
        case "before":
            return most.cut
        case "overlaps":
            return limit.cut


def _before_or_at(
    epochs: Epochs, recorded: Sequence[RetentionCut], least: RetentionCut | None, bound: Cut
) -> Cut | None:
    """The cut that retains the minimum if it is before the bound, else the newest that is."""
    if least is None:
        return None
    if cuts.compare(epochs, least.cut, bound) == "before":
        return least.cut
    for one in reversed(recorded):
        if cuts.equal_or_after(epochs, bound, one.cut):
            return one.cut
    return None
