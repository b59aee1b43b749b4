"""Extents against a list that says for each byte where it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from anabranch_segmentstore.domain.extents import ChunkPlace, Extents, LogPlace
from hypothesis import given
from hypothesis import strategies as st


@dataclass
class Bytes:
    """`places[n]` is the place of the byte at `start` + n: (position, offset) or (name, offset)."""

    start: int = 0
    places: list[tuple[object, int]] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + len(self.places)

    def in_log(self, offset: int) -> bool:
        return isinstance(self.places[offset - self.start][0], int)


def check(extents: Extents, model: Bytes) -> None:
    assert extents.end == model.end
    found: list[tuple[object, int]] = []
    for extent in extents.all():
        place = extent.place
        name: object = place.position if type(place) is LogPlace else place.object_name
        if type(place) is ChunkPlace:
            assert extent.end - extent.start == place.length, "a chunk is never cut"
        found += [(name, place.offset + n) for n in range(extent.end - extent.start)]
    # A chunk at the front may reach below the start of the segment.
    assert found[len(found) - len(model.places) :] == model.places
    for offset in range(model.start, model.end):
        extent = extents.at(offset)
        assert extent.start <= offset < extent.end
    logged = [n for n in range(model.start, model.end) if model.in_log(n)]
    assert extents.first_log_offset() == (logged[0] if logged else None)
    parts = extents.log_extents(model.start, model.end)
    assert [n for part in parts for n in range(part.start, part.end)] == logged


@given(st.data())
def test_every_byte_keeps_its_place(data: st.DataObject) -> None:
    """A reader would get the bytes of another event, or another segment."""
    extents, model = Extents(), Bytes()
    position, frame_offset, objects = 1, 0, 0
    for _ in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["append", "append", "frame", "cut", "tier", "merge"]))
        if action == "append":
            frame_offset += data.draw(st.sampled_from([0, 0, 7]))  # another segment's bytes
            length = data.draw(st.integers(1, 9))
            extents.append(LogPlace(position, frame_offset), length)
            model.places += [(position, frame_offset + n) for n in range(length)]
            frame_offset += length
        elif action == "frame":
            position, frame_offset = position + 1, 0
        elif action == "cut":
            offset = data.draw(st.integers(model.start, model.end))
            extents.drop_before(offset)
            model.places = model.places[offset - model.start :]
            model.start = offset
        elif action == "tier":
            logged = [n for n in range(model.start, model.end) if model.in_log(n)]
            if not logged:
                continue
            start = data.draw(st.sampled_from(logged))
            length = 1
            longest = data.draw(st.integers(1, 12))
            while length < longest and start + length in logged:
                length += 1
            objects += 1
            name = f"object-{objects}"
            replaced = extents.replace(start, ChunkPlace(name, 100, length, 0))
            assert sum(part.end - part.start for part in replaced) == length
            at = start - model.start
            model.places[at : at + length] = [(name, 100 + n) for n in range(length)]
        else:
            other = Extents()
            other.append(LogPlace(position, frame_offset), 3)
            frame_offset += 3
            if data.draw(st.booleans()):
                objects += 1
                other.replace(0, ChunkPlace(f"object-{objects}", 5, 3, 0))
                model.places += [(f"object-{objects}", 5 + n) for n in range(3)]
            else:
                model.places += [(position, frame_offset - 3 + n) for n in range(3)]
            extents.take(other)
        check(extents, model)
