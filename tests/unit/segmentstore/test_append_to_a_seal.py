"""A seal between two connections of one writer (found by seeds 569 and 777 of the simulation)."""

from __future__ import annotations

from typing import Any

import pytest
from anabranch_segmentstore.api import Appended
from anabranch_segmentstore.domain.errors import SegmentSealed, StaleWriter

SEGMENT = "scope/stream/0.#epoch.0"


async def test_a_connection_that_missed_an_append_is_not_told_of_the_seal(rig: Any) -> None:
    """An event would be stored in a segment and in its successor (F1): its writer reconnects,
    learns what is stored, and then bytes of the old connection are stored before the seal."""
    await rig.create()
    believed = await rig.container.setup_append(SEGMENT, rig_writer(rig))
    old = await rig.send(b"late bytes of the old connection", after=believed, number=1)
    assert isinstance(old, Appended)
    await rig.container.seal_segment(SEGMENT)

    resent = await rig.send(b"the same, on the new one", after=believed, number=1)
    assert isinstance(resent, StaleWriter)

    stored = await rig.container.setup_append(SEGMENT, rig_writer(rig))
    assert stored == 1
    assert isinstance(await rig.send(b"next", after=stored, number=2), SegmentSealed)


@pytest.mark.parametrize("after", [1, 2])
async def test_a_burst_into_a_sealed_segment_hears_of_the_seal(rig: Any, after: int) -> None:
    """A writer would reconnect for ever instead of going on to the successors."""
    await rig.create()
    await rig.append(b"first", number=1)
    await rig.container.seal_segment(SEGMENT)

    outcome = await rig.send(b"late", after=after, number=3)
    assert isinstance(outcome, SegmentSealed)


def rig_writer(rig: Any) -> Any:
    """The writer that the rig sends as when it is not told otherwise."""
    return rig.send.__kwdefaults__["writer"]
