"""Events through the official client: written, read, shared among readers, cut off."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable

import pytest
from helpers.client import Client
from helpers.control import Control

MIB = 1024 * 1024


def read_all(client: Client, scope: str, stream: str, count: int, group: str) -> list[bytes]:
    reader = client.manager.create_reader_group(group, scope, stream).create_reader("reader")
    return client.read_events(reader, count)


def test_events_of_one_key_are_read_in_order(client: Client, scope: str) -> None:
    """The promise that streams stand on."""
    client.manager.create_stream(scope, "keys", 4)
    writer = client.manager.create_writer(scope, "keys", 100)
    for number in range(500):
        writer.write_event(f"{number % 7}:{number}", f"key{number % 7}")
    writer.flush()
    by_key: dict[str, list[int]] = defaultdict(list)
    for event in read_all(client, scope, "keys", 500, "group"):
        key, number = event.decode().split(":")
        by_key[key].append(int(number))
    assert sum(len(numbers) for numbers in by_key.values()) == 500
    assert all(numbers == sorted(numbers) for numbers in by_key.values())


def test_events_without_a_key_are_all_read_once(client: Client, scope: str) -> None:
    """Events without a routing key would get lost or be read twice."""
    client.manager.create_stream(scope, "keyless", 3)
    writer = client.manager.create_writer(scope, "keyless", 50)
    sent = [f"event {number}".encode() for number in range(200)]
    for event in sent:
        writer.write_event_bytes(event)
    writer.flush()
    assert sorted(read_all(client, scope, "keyless", 200, "group")) == sorted(sent)


@pytest.mark.parametrize(
    "length", [1, 100, 64 * 1024, MIB, 8 * MIB - 8, 8 * MIB, 9 * MIB, 15 * MIB]
)
def test_an_event_of_any_length_comes_back_byte_for_byte(
    client: Client, scope: str, length: int
) -> None:
    """Large or tiny events would be cut, mixed up or refused. (Above 8 MiB: a large event.)"""
    client.manager.create_stream(scope, "sizes", 1)
    writer = client.manager.create_writer(scope, "sizes")
    sent = [random.Random(length).randbytes(length), b"after it"]
    for event in sent:
        writer.write_event_bytes(event, "key")
    writer.flush()
    assert read_all(client, scope, "sizes", 2, "group") == sent


def test_a_large_event_keeps_its_place_among_small_ones(client: Client, scope: str) -> None:
    """An event that travels by a transient segment would overtake or fall behind its key."""
    client.manager.create_stream(scope, "mixed", 1)
    writer = client.manager.create_writer(scope, "mixed", 10)
    sent = [b"small 0", b"L" * (9 * MIB), b"small 1", b"M" * (10 * MIB), b"small 2"]
    for event in sent:
        writer.write_event_bytes(event, "key")
    writer.flush()
    assert read_all(client, scope, "mixed", 5, "group") == sent


def test_two_readers_share_a_group_and_hand_over(
    new_client: Callable[[], Client], client: Client, scope: str
) -> None:
    """A second reader would read what the first one has read, or a leaving one lose events."""
    manager = client.manager
    manager.create_stream(scope, "shared", 4)
    writer = manager.create_writer(scope, "shared", 100)

    def write(first: int, last: int) -> None:
        for number in range(first, last):
            writer.write_event(f"{number % 16}:{number}", f"key{number % 16}")
        writer.flush()

    write(0, 200)
    first = manager.create_reader_group("group", scope, "shared").create_reader("first")
    seen = client.read_events(first, 100)
    first.reader_offline()  # hands its segments back, with the place it has reached

    other = new_client()
    second = other.manager.create_reader_group("group", scope, "shared").create_reader("second")
    seen += other.read_events(second, 100)
    write(200, 300)
    seen += other.read_events(second, 100)

    by_key: dict[str, list[int]] = defaultdict(list)
    for event in seen:
        key, number = event.decode().split(":")
        by_key[key].append(int(number))
    assert sorted(n for numbers in by_key.values() for n in numbers) == list(range(300))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())


def test_a_reader_that_vanished_is_replaced(
    new_client: Callable[[], Client], client: Client, scope: str
) -> None:
    """The segments of a crashed reader would never be read again."""
    manager = client.manager
    manager.create_stream(scope, "orphaned", 2)
    writer = manager.create_writer(scope, "orphaned", 100)
    for number in range(100):
        writer.write_event(str(number), f"key{number % 10}")
    writer.flush()
    doomed = new_client()
    reader = doomed.manager.create_reader_group("group", scope, "orphaned").create_reader("doomed")
    seen = doomed.read_events(reader, 30)
    doomed.close()

    group = manager.create_reader_group("group", scope, "orphaned")
    group.reader_offline("doomed")
    heir = group.create_reader("heir")
    # What the dead reader had read but not yet recorded is read again; nothing is skipped.
    remaining = {str(number).encode() for number in range(100)} - set(seen)
    while remaining:
        remaining -= set(client.read_events(heir, 1))


def test_a_stream_cut_is_a_place_to_begin_from(client: Client, scope: str) -> None:
    """A job could not go on from where an earlier one stopped."""
    manager = client.manager
    manager.create_stream(scope, "cut", 1)
    writer = manager.create_writer(scope, "cut", 100)
    for number in range(50):
        writer.write_event(str(number), "key")
    writer.flush()
    group = manager.create_reader_group("before", scope, "cut")
    reader = group.create_reader("reader")
    assert client.read_events(reader, 20) == [str(number).encode() for number in range(20)]
    reader.reader_offline()
    cut = group.get_streamcut()
    assert sum(cut.get_segment_offset_map().values()) > 0
    after = manager.create_reader_group("after", scope, "cut", False, cut).create_reader("reader")
    assert client.read_events(after, 30) == [str(number).encode() for number in range(20, 50)]


def test_a_group_can_begin_at_the_tail(client: Client, scope: str) -> None:
    """A consumer that wants only news would have to read all history."""
    manager = client.manager
    manager.create_stream(scope, "tail", 2)
    writer = manager.create_writer(scope, "tail")
    writer.write_event("old", "key")
    reader = manager.create_reader_group("group", scope, "tail", True).create_reader("reader")
    writer.write_event("new", "key")
    assert client.read_events(reader, 1) == [b"new"]


def test_a_truncated_stream_begins_at_its_cut_for_a_new_group(
    client: Client, scope: str, control: Control
) -> None:
    """Truncated events would come back, or kept ones be lost."""
    manager = client.manager
    manager.create_stream(scope, "short", 1)
    writer = manager.create_writer(scope, "short", 100)
    for number in range(50):
        writer.write_event(f"{number:04}", "key")
    writer.flush()
    event_bytes = 8 + 4  # header and payload
    control.truncate(scope, "short", {0: 30 * event_bytes})
    assert control.head(scope, "short") == {0: 30 * event_bytes}
    events = read_all(client, scope, "short", 20, "group")
    assert events == [f"{number:04}".encode() for number in range(30, 50)]
