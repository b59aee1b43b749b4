"""Damage at rest, after the audit: flipped bits, cut and missing objects (faults F11, F36).

The stores are stopped without a word, one thing is damaged that had been durable, and they are
started again. What is served then must be what it always was; the rest must be refused, and a
container that opens must have all of its events. The one gap that FileLog names (the last batch
before a crash) is left out.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path

from anabranch_segmentstore.adapters.file_log_format import (
    FIRST_RECORD_BYTES,
    HEADER_BYTES,
    MAGIC,
    Broken,
    Header,
    decode,
    decode_first,
)
from anabranch_segmentstore.domain.extents import ChunkPlace
from anabranch_wire import commands as c

from anabranch_testkit.simulation.clients import Client, Unknown
from anabranch_testkit.simulation.cluster import WAL, Cluster
from anabranch_testkit.simulation.loop import Process

TRIES = 6
LOOK_S = 8.0  # per segment; who waits for longer was refused


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    offset: int
    length: int


async def damage_and_look(cluster: Cluster, process: Process, segments: list[str]) -> None:
    """Call it when nothing else runs. Findings go to the auditor."""
    chance = process.chance
    lengths = {one: len(cluster.auditor.segments[one].seen) for one in segments}
    referenced = _referenced_objects(cluster)
    cluster.damage_is_expected = True
    cluster.placement_is_frozen = True
    for name in cluster.store_names:
        cluster.stores[name].process.kill()
    if referenced and chance.random() < 0.5:
        _damage_object(cluster, chance, referenced)
    else:
        _damage_log(cluster, chance)
    for name in cluster.store_names:
        cluster.start_store(name)
    client = Client(cluster, process)
    await process.sleep(5.0)
    for segment, length in lengths.items():
        try:
            async with asyncio.timeout(LOOK_S):
                await _look(client, segment, length)
        except TimeoutError:
            cluster.loop.trace("damage.refused", segment)


async def _look(client: Client, segment: str, length: int) -> None:
    info = await client.info(segment)
    if info.write_offset < length:
        client.auditor.blame(
            f"{segment}: after damage {info.write_offset} bytes long, {length} before"
        )
    offset, tries = info.start_offset, TRIES
    while offset < min(length, info.write_offset) and tries:
        try:
            reply = await client.ask(segment, c.ReadSegment(segment, offset, 500))
        except Unknown:
            tries -= 1
            continue
        if isinstance(reply, c.SegmentRead) and reply.data:
            client.auditor.observe(segment, offset, bytes(reply.data))
            offset += len(reply.data)
        else:
            client.auditor.blame(f"{segment}: after damage a read at {offset} got {reply}")
            return


def _referenced_objects(cluster: Cluster) -> list[str]:
    """Objects that hold bytes of user segments, in a fixed order."""
    names = {
        extent.place.object_name
        for container in cluster.live_containers()
        for segment in container.state.segments.values()
        if segment.table is None
        for extent in segment.extents.all()
        if isinstance(extent.place, ChunkPlace)
    }
    return sorted(names & cluster.objects.objects.keys())


def _damage_object(cluster: Cluster, chance: random.Random, names: list[str]) -> None:
    name = chance.choice(names)
    data = bytearray(cluster.objects.objects[name])
    what = chance.choice(("flip", "flip", "flip", "cut", "remove"))
    cluster.loop.trace("damage.object", what, name)
    match what:
        case "flip":
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            cluster.objects.objects[name] = bytes(data)
        case "cut":
            cluster.objects.objects[name] = bytes(data[: chance.randrange(len(data))])
        case _:
            del cluster.objects.objects[name]


def _damage_log(cluster: Cluster, chance: random.Random) -> None:
    places = _acknowledged_records(cluster)
    if places:
        place = chance.choice(places)
        offset = place.offset + chance.randrange(place.length)
        cluster.loop.trace("damage.log", place.path, offset)
        cluster.disk.flip(place.path, offset, chance.randrange(8))


def _acknowledged_records(cluster: Cluster) -> list[_Place]:
    """Records that an intact later one of the same file calls durable; so a flip in them is
    told from the end of the log."""
    places: list[_Place] = []
    for path in cluster.disk.walk(WAL):
        if path.suffix != ".wal":
            continue
        records = _records(bytes(cluster.disk.node(path).cached))
        synced_end = max((header.synced_end for _, header in records), default=0)
        for offset, header in records[1:-1]:
            length = HEADER_BYTES + header.table_bytes + header.payload_length
            if header.sequence < synced_end:
                places.append(_Place(path, offset, length))
    return places


def _records(data: bytes) -> list[tuple[int, Header]]:
    try:
        header, first = decode_first(data[:FIRST_RECORD_BYTES])
    except Broken:
        return []
    found = [(0, header)]
    offset = FIRST_RECORD_BYTES
    while data[offset : offset + 4] == MAGIC:
        try:
            header, _ = decode(data, offset, first.salt)
        except Broken:
            break
        found.append((offset, header))
        offset += header.record_bytes
    return found
