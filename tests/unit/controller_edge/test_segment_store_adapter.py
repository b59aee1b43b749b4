"""The controller's port to the segment stores: what the wire client's answers mean to it."""

from __future__ import annotations

from typing import Any

import pytest
from anabranch_controller.adapters.segment_stores import LocateForClient, WireSegmentStores
from anabranch_controller.api import Endpoint
from anabranch_controller.ports import SegmentInfo, SegmentMissing, SegmentStoreUnavailable
from anabranch_kit.wire_client import Refused, SegmentNotLocated, StoreUnavailable
from anabranch_wire import commands as c

SEGMENT, SOURCE = "s/x/0.#epoch.0", "s/x/0.#epoch.0#transaction." + "0" * 32


def _refused(segment: str, reply: c.Reply) -> Refused:
    return Refused(segment, "Request", reply)


class ToldClient:
    """Answers each method with what the test put under its name: a value, or an exception."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        async def method(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, arguments, named))
            answer = self.answers[name]
            if callable(answer):
                answer = answer(*arguments)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return method


def _stores(**answers: Any) -> tuple[WireSegmentStores, ToldClient]:
    client = ToldClient(**answers)
    return WireSegmentStores(client), client  # type: ignore[arg-type]


async def test_policy_travels_in_the_numbers_of_the_wire() -> None:
    """A store that hears another unit would report load against a wrong target."""
    stores, client = _stores(create_segment=True, update_segment_policy=None)
    await stores.create_segment(
        SEGMENT, scale_type="events_per_sec", target_rate=10, rollover_size_bytes=7
    )
    await stores.update_policy(SEGMENT, scale_type="fixed", target_rate=10)
    assert [named for _, _, named in client.calls] == [
        {"scale_type": 2, "target_rate": 10, "rollover_size_bytes": 7},
        {"scale_type": 0, "target_rate": 0},
    ]


async def test_missing_segment_is_told_apart_from_a_store_that_is_away() -> None:
    """The first ends a workflow's step for good, the second is tried again."""
    stores, _ = _stores(
        seal_segment=_refused(SEGMENT, c.NoSuchSegment(1, SEGMENT)),
        truncate_segment=StoreUnavailable(SEGMENT, "Truncate", 3, SegmentNotLocated(SEGMENT, "x")),
    )
    with pytest.raises(SegmentMissing):
        await stores.seal(SEGMENT)
    with pytest.raises(SegmentStoreUnavailable):
        await stores.truncate(SEGMENT, 5)


async def test_merge_into_a_sealed_target_counts_when_its_sources_are_gone() -> None:
    """A rolling commit that crashed after its seal is repeated, and must not hang for ever."""
    info = c.StreamSegmentInfo(1, SEGMENT, True, True, False, 0, write_offset=42)
    stores, _ = _stores(
        merge_segments_batch=_refused(SEGMENT, c.SegmentIsSealed(1, SEGMENT)),
        segment_info=lambda name: (
            info if name == SEGMENT else _refused(name, c.NoSuchSegment(1, name))
        ),
    )
    assert await stores.merge_batch(SEGMENT, [SOURCE]) == (42,)


async def test_merge_into_a_sealed_target_fails_while_a_source_is_there() -> None:
    """Taking it for done would lose the transaction's events."""
    info = c.StreamSegmentInfo(1, SEGMENT, True, True, False, 0, write_offset=42)
    stores, _ = _stores(
        merge_segments_batch=_refused(SEGMENT, c.SegmentIsSealed(1, SEGMENT)), segment_info=info
    )
    with pytest.raises(SegmentStoreUnavailable, match="refused"):
        await stores.merge_batch(SEGMENT, [SOURCE])


async def test_policy_of_a_sealed_segment_matters_to_nobody() -> None:
    """An update that meets a seal must not be retried for a minute."""
    stores, _ = _stores(update_segment_policy=_refused(SEGMENT, c.SegmentIsSealed(1, SEGMENT)))
    await stores.update_policy(SEGMENT, scale_type="fixed", target_rate=0)


async def test_info_is_the_length_that_truncation_does_not_shrink() -> None:
    """Sizes of sealed segments are recorded from it."""
    info = c.StreamSegmentInfo(1, SEGMENT, True, True, False, 0, write_offset=42, start_offset=7)
    stores, _ = _stores(segment_info=info)
    assert await stores.info(SEGMENT) == SegmentInfo(42, 7, sealed=True)


async def test_unlocated_segment_is_asked_for_again_by_the_client() -> None:
    """A container that moves must cost a retry, not a failed workflow."""

    class Locator:
        def __init__(self, answer: Endpoint | Exception) -> None:
            self.answer = answer

        async def locate(self, segment: str, *, wait_s: float) -> Endpoint:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    away = SegmentStoreUnavailable("locate", SEGMENT, "nobody")
    with pytest.raises(SegmentNotLocated, match="nobody"):
        await LocateForClient(Locator(away))(SEGMENT)
    assert await LocateForClient(Locator(Endpoint("h", 1)))(SEGMENT) == ("h", 1)
