"""The tierer's rules: reads of an order, answers of the owner, pauses."""

from __future__ import annotations

from itertools import pairwise

import pytest
from anabranch_events.bus import ChunkAnswer, FlushOrder, FlushRange
from anabranch_tierer.domain.backoff import PAUSE_FIRST_S, PAUSE_MAX_S, Backoff
from anabranch_tierer.domain.orders import (
    ORDER_BYTES_MAX,
    READ_BYTES_MAX,
    Again,
    Content,
    Done,
    Dropped,
    OrderRefused,
    Read,
    name_taken_report,
    plan_reads,
    settle,
    written_report,
)
from hypothesis import given
from hypothesis import strategies as st


def order(*ranges: FlushRange) -> FlushOrder:
    return FlushOrder(2, 7, "container-2/7-1", ranges)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]), st.integers(0, 2**40), st.integers(1, 3 * READ_BYTES_MAX)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_reads_cover_each_range_once_and_in_order(ranges: list[tuple[str, int, int]]) -> None:
    """A chunk would have a hole, an overlap, or bytes of another segment."""
    wanted = [FlushRange(*one) for one in ranges]
    reads = plan_reads(order(*wanted))
    assert [one.range_index for one in reads] == sorted(one.range_index for one in reads)
    for index, one in enumerate(wanted):
        pieces = [read for read in reads if read.range_index == index]
        assert pieces[0].offset == one.offset
        for piece, following in pairwise(pieces):
            assert piece.offset + piece.length == following.offset
        assert pieces[-1].offset + pieces[-1].length == one.offset + one.length
        assert {piece.segment for piece in pieces} == {one.segment}
        assert all(0 < piece.length <= READ_BYTES_MAX for piece in pieces)


def test_small_ranges_are_one_read_each() -> None:
    """Quiet segments would cost several round trips."""
    reads = plan_reads(order(FlushRange("a", 5, 10), FlushRange("b", 0, 1)))
    assert reads == [Read(0, "a", 5, 10), Read(1, "b", 0, 1)]


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        ([], "no ranges"),
        ([FlushRange("a", 0, 0)], "is no range"),
        ([FlushRange("a", -1, 5)], "is no range"),
        ([FlushRange("", 0, 5)], "without a segment"),
        ([FlushRange("a", 0, ORDER_BYTES_MAX), FlushRange("b", 0, 1)], "bytes, more than"),
    ],
)
def test_orders_that_cannot_be_done_are_refused(ranges: list[FlushRange], reason: str) -> None:
    """A wrong order would fill the worker's memory, or come back for ever."""
    with pytest.raises(OrderRefused, match=reason):
        plan_reads(order(*ranges))


def test_answers_of_the_owner_settle_the_order() -> None:
    """An order would be acknowledged that the owner never journalled, or never let go of."""
    assert settle(ChunkAnswer("accepted")) == Done()
    assert settle(ChunkAnswer("unknown", "voided")) == Dropped("voided")
    assert isinstance(settle(ChunkAnswer("not-owner")), Again)


def test_reports_carry_what_the_owner_journals() -> None:
    """The container would journal a chunk with another range's checksum."""
    wanted = order(FlushRange("a", 0, 3), FlushRange("b", 9, 4))
    report = written_report(wanted, content=Content(7, 99), crcs=[1, 2], worker="w")
    assert (report.outcome, report.length_bytes, report.crcs) == ("written", 7, (1, 2))
    assert report.object_name == wanted.object_name
    assert name_taken_report(wanted, worker="w").outcome == "name-taken"
    with pytest.raises(AssertionError, match="came short"):
        written_report(wanted, content=Content(6, 99), crcs=[1, 2], worker="w")


def test_pause_doubles_to_a_limit_and_ends_with_a_success() -> None:
    """A dead tier 2 would be hammered, or left alone after it is back."""
    backoff, now, pauses = Backoff(), 100.0, []
    for _ in range(10):
        pauses.append(backoff.failed(now))
        assert backoff.pause_s(now) == pauses[-1]
        now += pauses[-1]
        assert backoff.pause_s(now) == 0
    assert pauses[:3] == [PAUSE_FIRST_S, 2 * PAUSE_FIRST_S, 4 * PAUSE_FIRST_S]
    assert pauses[-1] == PAUSE_MAX_S
    assert backoff.is_down
    assert backoff.succeeded() is True
    assert backoff.succeeded() is False
    assert backoff.pause_s(now) == 0


def test_orders_that_fail_together_count_once() -> None:
    """A short outage would cost minutes when many slots met it."""
    backoff = Backoff()
    assert [backoff.failed(1.0) for _ in range(8)] == [PAUSE_FIRST_S] * 8
    assert backoff.failed(1.1) == pytest.approx(PAUSE_FIRST_S - 0.1)
