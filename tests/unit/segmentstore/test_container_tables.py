"""Table segments: versions, conditions, pages and deltas."""

from __future__ import annotations

import pytest
from anabranch_segmentstore.api import NO_VERSION, NOT_EXISTS, TableEntry, TableKey
from anabranch_segmentstore.domain.errors import (
    BadArgument,
    IsATable,
    NotATable,
    OperationUnsupported,
    SegmentSealed,
    SegmentTruncated,
    TableKeyBadVersion,
    TableKeyMissing,
    TableNotEmpty,
)
from anabranch_segmentstore.domain.tables import hash_order

TABLE = "scope/table_kvtable/0.#epoch.0"


def put(key: bytes, value: bytes = b"v1", version: int = NO_VERSION) -> TableEntry:
    return TableEntry(key, value, version)


async def update(rig, *entries: TableEntry, length: int | None = None) -> list[int]:
    return list(await rig.container.table_update(TABLE, entries, expected_length=length))


async def remove(rig, *keys: TableKey) -> None:
    await rig.container.table_remove(TABLE, keys, expected_length=None)


async def test_versions_are_the_offsets_of_the_records(rig) -> None:
    """Versions and positions would not look like those of the original."""
    await rig.create(TABLE, key_length=0)
    assert await update(rig, put(b"k1"), put(b"k1", b"v2"), put(b"k2")) == [0, 21, 42]
    found = await rig.container.table_get(TABLE, [b"k1", b"nope", b"k2"])
    assert found == [TableEntry(b"k1", b"v2", 21), None, TableEntry(b"k2", b"v1", 42)]
    info = await rig.container.table_info(TABLE)
    assert (info.length, info.entries_count, info.key_length) == (63, 2, 0)


async def test_conditions_are_judged_against_the_state_before_the_batch(rig) -> None:
    """Two clients of a reader group would both believe that they moved the position."""
    await rig.create(TABLE, key_length=0)
    await update(rig, put(b"k1", version=NOT_EXISTS))
    with pytest.raises(TableKeyBadVersion):
        await update(rig, put(b"k2"), put(b"k1", version=NOT_EXISTS))
    assert await rig.container.table_get(TABLE, [b"k2"]) == [None]
    with pytest.raises(TableKeyMissing):
        await update(rig, put(b"k1", version=99), put(b"k3", version=0))
    assert await update(rig, put(b"k1", b"a", 0), put(b"k1", b"b", 0)) == [21, 41]
    with pytest.raises(SegmentTruncated) as refused:
        await update(rig, put(b"k1"), length=5)
    assert refused.value.start_offset == 61
    assert await update(rig) == []


async def test_removals(rig) -> None:
    """A removed key would come back after a restart."""
    await rig.create(TABLE, key_length=0)
    await update(rig, put(b"k1"), put(b"k2"))
    with pytest.raises(TableKeyBadVersion):
        await remove(rig, TableKey(b"k1", 5))
    await remove(rig, TableKey(b"k1", 0), TableKey(b"absent"), TableKey(b"x", NOT_EXISTS))
    assert await rig.container.table_get(TABLE, [b"k1", b"k2"]) == [
        None,
        TableEntry(b"k2", b"v1", 21),
    ]
    await rig.restart()
    assert await rig.container.table_get(TABLE, [b"k1", b"k2"]) == [
        None,
        TableEntry(b"k2", b"v1", 21),
    ]
    with pytest.raises(TableNotEmpty):
        await rig.container.delete_segment(TABLE, must_be_empty=True)
    await remove(rig, TableKey(b"k2"))
    await rig.container.delete_segment(TABLE, must_be_empty=True)


async def test_a_hash_table_is_iterated_in_pages_by_hash(rig) -> None:
    """A table synchronizer would miss keys or see them twice."""
    await rig.create(TABLE, key_length=0)
    keys = [b"key-%d" % number for number in range(25)]
    await update(rig, *(put(key) for key in keys))
    seen: list[bytes] = []
    token = b""
    while True:
        page = await rig.container.table_iterate(TABLE, count=10, token=token, low=b"", high=b"")
        if not page.entries:
            assert page.token == b""
            break
        assert len(page.entries) <= 10
        assert page.token
        seen += [entry.key for entry in page.entries]
        token = page.token
        await update(rig, put(b"new-%d" % len(seen)))
        await remove(rig, TableKey(b"new-%d" % len(seen)))
    assert seen == sorted(keys, key=hash_order)


async def test_deltas(rig) -> None:
    """A synchronizer would not follow the updates of the others."""
    await rig.create(TABLE, key_length=0)
    await update(rig, put(b"k1"), put(b"k2"))
    delta = await rig.container.table_delta(TABLE, position=0, count=1)
    assert (list(delta.entries), delta.reached_end, delta.last_position) == (
        [TableEntry(b"k1", b"v1", 0)],
        False,
        21,
    )
    await update(rig, put(b"k1", b"v9"))
    await remove(rig, TableKey(b"k2"))
    delta = await rig.container.table_delta(TABLE, position=21, count=10)
    assert list(delta.entries) == [TableEntry(b"k1", b"v9", 42)]
    assert (delta.reached_end, delta.last_position, delta.should_clear) == (True, 82, False)
    at_end = await rig.container.table_delta(TABLE, position=82, count=10)
    assert (list(at_end.entries), at_end.reached_end, at_end.last_position) == ([], True, 0)
    with pytest.raises(BadArgument):
        await rig.container.table_delta(TABLE, position=83, count=10)


async def test_a_position_inside_a_record_gives_nothing(rig) -> None:
    """A client with a wrong position would end the container."""
    await rig.create(TABLE, key_length=0)
    await update(rig, put(b"k1"), put(b"k2"))
    delta = await rig.container.table_delta(TABLE, position=5, count=10)
    assert (list(delta.entries), delta.reached_end, delta.last_position) == ([], True, 0)


async def test_fixed_key_tables(rig) -> None:
    """Java's key-value tables would not work."""
    await rig.create(TABLE, key_length=2)
    await update(rig, put(b"bb"), put(b"aa"), put(b"cc"))
    page = await rig.container.table_iterate(TABLE, count=9, token=b"", low=b"aa", high=b"bb")
    assert [entry.key for entry in page.entries] == [b"aa", b"bb"]
    length = (await rig.container.table_info(TABLE)).length
    await remove(rig, TableKey(b"aa"))
    info = await rig.container.table_info(TABLE)
    assert (info.length, info.entries_count, info.key_length) == (length, 2, 2)
    with pytest.raises(TableKeyBadVersion):
        await update(rig, put(b"zz", version=4))
    with pytest.raises(BadArgument):
        await update(rig, put(b"long"))
    with pytest.raises(OperationUnsupported):
        await rig.container.table_delta(TABLE, position=0, count=1)
    with pytest.raises(OperationUnsupported):
        await rig.container.delete_segment(TABLE, must_be_empty=True)
    await rig.restart()
    page = await rig.container.table_iterate(TABLE, count=9, token=b"", low=b"", high=b"")
    assert [entry.key for entry in page.entries] == [b"bb", b"cc"]


async def test_plain_requests_on_tables_and_table_requests_on_segments(rig) -> None:
    """A stray append would make a table unreadable."""
    await rig.create(TABLE, key_length=0)
    await rig.create()
    with pytest.raises(IsATable):
        await rig.append(b"data", segment=TABLE)
    with pytest.raises(NotATable):
        await rig.container.table_get("scope/stream/0.#epoch.0", [b"k"])
    await rig.container.seal_segment(TABLE)
    with pytest.raises(SegmentSealed):
        await update(rig, put(b"k1"))


async def test_limits(rig) -> None:
    """An empty or huge key would stop whatever reads the table later."""
    await rig.create(TABLE, key_length=0)
    for entry in (put(b""), put(b"k" * 8193), put(b"k", b"v" * 1_048_576)):
        with pytest.raises(BadArgument):
            await update(rig, entry)
