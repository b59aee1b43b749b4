"""A log cut behind any frame gives the state that the container had then."""

from __future__ import annotations

from random import Random
from uuid import UUID

import pytest
from anabranch_segmentstore.api import AttributeUpdate, TableEntry, TableKey
from anabranch_segmentstore.domain.errors import Refusal
from anabranch_segmentstore.domain.operations import OperationsDamaged
from anabranch_segmentstore.domain.snapshot import encode_snapshot
from anabranch_segmentstore.ports import ContainerId, Frame, LogPosition
from anabranch_segmentstore.recovery import recover

NAMES = [f"scope/stream/{number}.#epoch.0" for number in range(4)]
TABLES = {"scope/a_kvtable/0.#epoch.0": 0, "scope/b_kvtable/0.#epoch.0": 4}


async def do_something(rig, random: Random) -> None:
    """One request, which may well be refused."""
    container = rig.container
    name, other = random.choice(NAMES), random.choice(NAMES)
    table = random.choice(list(TABLES))
    key = b"key%d" % random.randrange(5)
    match random.randrange(12):
        case 0 | 1:
            await rig.create(name)
        case 2:
            await rig.create(table, key_length=TABLES[table])
        case 3 | 4 | 5:
            await rig.append(random.randbytes(random.randrange(50)), segment=name)
        case 6:
            await container.truncate_segment(name, random.randrange(60))
        case 7:
            await container.merge_segment(name, other)
        case 8:
            await container.delete_segment(random.choice([name, table]))
        case 9:
            updates = [AttributeUpdate(UUID(int=random.randrange(3)), 3, 7)]
            await container.update_attributes(name, updates)
        case 10:
            entries = [TableEntry(key, random.randbytes(random.randrange(20)))]
            await container.table_update(table, entries, expected_length=None)
        case 11:
            await container.table_remove(table, [TableKey(key)], expected_length=None)


@pytest.mark.parametrize("seed", range(5))
async def test_every_prefix_of_the_log_is_a_state(make_rig, seed: int) -> None:
    """A crash at an unlucky moment would bring back a state that never was."""
    rig = await make_rig()
    random = Random(seed)
    states: dict[int, bytes] = {}
    for step in range(150):
        try:
            await do_something(rig, random)
        except Refusal:
            continue
        finally:
            rig.clock.now += random.randrange(1000)
        if step == 75:
            rig.container.upkeep.snapshot()
            await rig.container.barrier()
        states[rig.log.last_position] = encode_snapshot(rig.container.state)
    assert len(states) > 40
    whole = dict(rig.store.disks[0].frames)
    for last, expected in states.items():
        disk = rig.store.disks[0]
        disk.frames = {at: frame for at, frame in whole.items() if at <= last}
        disk.last_position = last
        recovered = await recover(await rig.store.open(ContainerId(0), owner="test"))
        assert encode_snapshot(recovered.state) == expected, f"after frame {last}"


async def test_a_log_that_this_release_cannot_read_is_named(make_rig) -> None:
    """An operator would have a container that ends without saying why."""
    rig = await make_rig()
    await rig.create(NAMES[0])
    disk = rig.store.disks[0]
    [(position, frame)] = disk.frames.items()
    broken = frame.payload[:-4] + b"\0\2" + frame.payload[-2:]
    disk.frames[position] = Frame(LogPosition(position), False, broken)
    with pytest.raises(OperationsDamaged, match=f"frame {position}: .*version 2"):
        await recover(await rig.store.open(ContainerId(0), owner="test"))
