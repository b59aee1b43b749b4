"""The parts of the taxi demo, each for itself: trips, files, verdict, story, events."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from anabranch_events.bus import SegmentRate, StreamRates
from anabranch_events.feed import StreamScaled
from anabranch_events.model import SegmentRange
from anabranch_standalone.demo.messages import Message, ReaderProgress, Run, WriterDone
from anabranch_standalone.demo.nightclock import (
    HOUR_S,
    NIGHT_S,
    NightClock,
    label,
    taxi_seconds_of,
)
from anabranch_standalone.demo.plan import policy_for
from anabranch_standalone.demo.profile import HOURLY_PICKUPS, place_weights
from anabranch_standalone.demo.reader import Runs
from anabranch_standalone.demo.story import reaction, splits_in_a_row, tell
from anabranch_standalone.demo.tripfiles import NoTrips, read_rows, read_trips
from anabranch_standalone.demo.trips import Trip, busiest, generate, is_in_order, repeat
from anabranch_standalone.demo.verify import verify
from anabranch_standalone.demo.writer import TripEvent, make_event
from hypothesis import given
from hypothesis import strategies as st

NEW_HEADER = "VendorID,tpep_pickup_datetime,tpep_dropoff_datetime,PULocationID,DOLocationID"
OLD_HEADER = "VendorID, tpep_pickup_datetime, pickup_longitude, pickup_latitude"


# --- trips -------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_night():
    """Two runs could not be compared."""
    assert generate(500, random.Random(3)) == generate(500, random.Random(3))
    assert generate(500, random.Random(3)) != generate(500, random.Random(4))


def test_generated_trips_follow_the_hours_and_the_places():
    """The night would have no trough and no rush, and nothing would scale."""
    trips = generate(100_000, random.Random(1))
    assert len(trips) == 100_000
    assert is_in_order(trips)
    per_hour = [0] * 12
    for trip in trips:
        per_hour[int(trip.at_s // HOUR_S)] += 1
    peak, trough = max(per_hour), min(per_hour)
    assert per_hour.index(trough) in (4, 5)
    assert per_hour.index(peak) in (9, 10)
    assert 7 <= peak / trough <= 12
    weights = place_weights()
    busiest_zone = max(weights, key=weights.__getitem__)
    share = sum(trip.place == str(busiest_zone) for trip in trips) / len(trips)
    assert share == pytest.approx(weights[busiest_zone] / sum(weights.values()), abs=0.005)


def test_the_tables_are_whole():
    """A place that stands in two lines would count twice."""
    weights = place_weights()
    assert len(weights) == 180
    assert sum(weights.values()) == 3250
    assert [hour for hour, _ in HOURLY_PICKUPS] == [23, *range(11)]


@given(st.integers(1, 50), st.integers(1, 500), st.integers(0, 99))
def test_repeated_trips_are_as_many_as_wanted_and_stay_in_the_night(base, count, seed):
    """A thin file would give too few trips, or some after the end."""
    rng = random.Random(seed)
    trips = [Trip(rng.uniform(0, NIGHT_S - 1), str(i)) for i in range(base)]
    repeated = repeat(trips, count, rng)
    assert len(repeated) == count
    assert is_in_order(repeated)
    assert all(0 <= trip.at_s < NIGHT_S for trip in repeated)
    assert {trip.place for trip in repeated} <= {trip.place for trip in trips}


def test_the_busiest_half_hour_is_found():
    """The policy's target would fit another night."""
    trips = [Trip(taxi_seconds_of(9) + i, "1") for i in range(900)] + [Trip(10.0, "1")]
    at_s, rate = busiest(trips)
    assert label(at_s) == "09:15"
    assert rate == 0.5


def test_the_taxi_clock_turns_at_midnight():
    """Events of the morning would be shown in the evening."""
    assert label(0) == "23:00"
    assert label(taxi_seconds_of(6, 30)) == "06:30"
    clock = NightClock(1_000, 180.0)
    assert clock.speed == 240
    assert label(clock.taxi_s(1_000 + 90_000)) == "05:00"


# --- files -------------------------------------------------------------------------------


def test_both_forms_of_the_files_are_read():
    """The commission's older or newer files could not be used."""
    new = read_rows([NEW_HEADER, "2,2019-03-01 00:03:29,x,142,236"], random.Random(1))
    assert new.trips == [Trip(HOUR_S + 3 * 60 + 29.0, "142")]
    old_rows = [OLD_HEADER, "1,2015-03-02 23:30:00,-73.985,40.758"]
    old = read_rows(old_rows, random.Random(1))
    assert old.trips == [Trip(1800.0, "40.75,-73.98")]


def test_malformed_rows_are_counted_by_reason_and_never_fatal():
    """One broken line in a month of trips would end the demo, or vanish without a word."""
    rows = [
        NEW_HEADER,
        "",
        "2,2019-03-01 00:03:29,x,142,236",
        "2,yesterday,x,142,236",
        "2,2019-03-01 00:03:29,x,,236",
        "2,2019-03-01 00:03:29,x,nowhere,236",
        "2",
        "2,2019-03-01 12:03:29,x,142,236",
        "2,2019-03-02 00:03:29,x,142,236",
    ]
    reading = read_rows(rows, random.Random(1))
    assert len(reading.trips) == 1
    assert reading.malformed == {
        "pick-up time unreadable": (1, 4),
        "pick-up zone missing": (1, 5),
        "pick-up zone is no number": (1, 6),
        "pick-up time missing": (1, 7),
    }
    assert (reading.by_day_count, reading.weekend_count) == (1, 1)
    summary = reading.summary()
    assert "pick-up zone is no number (first in line 6)" in summary
    assert "8 rows" not in summary


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1,2015-03-02 23:30:00,0,0", "longitude is far from New York"),
        ("1,2015-03-02 23:30:00,east,40.7", "longitude is no number"),
        ("1,2015-03-02 23:30:00,-73.9,nan", "latitude is far from New York"),
    ],
)
def test_coordinates_from_nowhere_are_malformed(row, reason):
    """Thousands of trips at 0, 0 would be one hot key in the sea."""
    assert list(read_rows([OLD_HEADER, row], random.Random(1)).malformed) == [reason]


def test_files_without_trips_say_why(tmp_path: Path):
    """The demo would start a cluster and then do nothing."""
    with pytest.raises(NoTrips, match="No such file"):
        read_trips(tmp_path / "none.csv", random.Random(1))
    path = tmp_path / "trips.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(NoTrips, match="tpep_pickup_datetime"):
        read_trips(path, random.Random(1))
    path.write_bytes(b"")
    with pytest.raises(NoTrips, match="tpep_pickup_datetime"):
        read_trips(path, random.Random(1))
    path.write_text(f"{NEW_HEADER}\n2,2019-03-01 12:03:29,x,142,236\n")
    with pytest.raises(NoTrips, match="no trip between 23:00 and 11:00"):
        read_trips(path, random.Random(1))


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=20))
def test_no_line_of_text_can_break_the_reading(lines):
    """A file with binary rubbish in the middle would end the demo with a traceback."""
    reading = read_rows([NEW_HEADER + "\n", *(line + "\n" for line in lines)], random.Random(1))
    assert len(reading.trips) + reading.malformed_count <= reading.rows_count


# --- events and verdict ------------------------------------------------------------------


def test_events_have_the_wanted_length_and_can_be_read_back():
    """The data rate would not be what the policy was made for."""
    data = make_event(Trip(0.0, "161"), 7, 9, 500, random.Random(1))
    assert len(data) == 500
    event = msgspec.json.decode(data, type=TripEvent)
    assert (event.place, event.number, event.trip, event.pickup) == ("161", 7, 9, "23:00")


def test_messages_of_the_processes_survive_the_pipe():
    """The demo would not understand its own writer and readers."""
    for message in (WriterDone({"1": 2}, 3), ReaderProgress("r", 1, 2, 0, [Run("1", 0, 5, 1, 2)])):
        line = msgspec.json.encode(message)
        assert msgspec.json.decode(line, type=Message) == message


def runs_of(*numbers: tuple[str, int], start_ns: int = 0) -> list[Run]:
    runs = Runs()
    for now_ns, (key, number) in enumerate(numbers, start_ns):
        runs.add(key, number, now_ns)
    return runs.taken()


def test_a_faultless_night_is_good():
    """A correct run would be called a failure."""
    first = runs_of(("a", 0), ("b", 0), ("a", 1))
    second = runs_of(("b", 1), ("a", 2), start_ns=10)
    verdict = verify({"a": 3, "b": 2}, [*second, *first])
    assert verdict.is_good
    assert "all 5 events" in verdict.sentence()


@pytest.mark.parametrize(
    ("runs", "field", "count"),
    [
        (runs_of(("a", 0), ("a", 2)), "missing_count", 1),
        (runs_of(("a", 0), ("a", 1)), "missing_count", 1),
        (runs_of(("a", 0), ("a", 1), ("a", 1), ("a", 2)), "doubled_count", 1),
        (runs_of(("a", 0), ("a", 1), ("a", 2), ("a", 0), ("a", 1)), "doubled_count", 2),
        (runs_of(("a", 0), ("a", 1), ("a", 2), ("a", 3)), "unknown_count", 1),
        (runs_of(("a", 0), ("a", 1), ("a", 2), ("c", 0)), "unknown_count", 1),
        (runs_of(("a", 2), ("a", 0), ("a", 1)), "out_of_order_count", 1),
        ([], "missing_count", 3),
    ],
)
def test_every_sort_of_trouble_is_seen(runs, field, count):
    """A lost, doubled or reordered trip would go unnoticed."""
    verdict = verify({"a": 3}, runs)
    assert not verdict.is_good
    assert getattr(verdict, field) == count
    assert verdict.examples


@given(st.lists(st.sampled_from("abc"), max_size=60), st.integers(1, 4), st.data())
def test_any_in_order_reading_by_any_readers_is_good(keys, readers_count, data):
    """A hand-over between readers would look like a fault."""
    written: dict[str, int] = {}
    readers = [Runs() for _ in range(readers_count)]
    taken: list[Run] = []
    for now_ns, key in enumerate(keys):
        number = written.get(key, 0)
        written[key] = number + 1
        reader = data.draw(st.sampled_from(readers))
        reader.add(key, number, now_ns)
        if data.draw(st.booleans()):
            taken += reader.taken()
    taken += [run for reader in readers for run in reader.taken()]
    assert verify(written, taken).is_good


# --- the story ---------------------------------------------------------------------------


def scaled(epoch: int, at_ms: int, sealed, created, count: int) -> StreamScaled:
    splits = int(len(created) > len(sealed))
    return StreamScaled(
        "s", "t", epoch, "load", "why", 1.0, 1.0, tuple(sealed), tuple(created),
        splits, 1 - splits, count, at_ms - 50, at_ms, 50,
    )  # fmt: skip


def part(number: int, low: float, high: float) -> SegmentRange:
    return SegmentRange(number, low, high)


WHOLE = part(0, 0.0, 1.0)
LEFT, RIGHT = part(1, 0.0, 0.5), part(2, 0.5, 1.0)
LEFT_1, LEFT_2 = part(3, 0.0, 0.25), part(4, 0.25, 0.5)
EIGHTH_1, EIGHTH_2 = part(5, 0.25, 0.3), part(6, 0.3, 0.5)


def test_splits_in_a_row_are_counted_down_one_line():
    """Three splits anywhere would pass for one range that splits three times."""
    events = [
        scaled(1, 1, [WHOLE], [LEFT, RIGHT], 2),
        scaled(2, 2, [LEFT], [LEFT_1, LEFT_2], 3),
    ]
    assert splits_in_a_row(events) == 2
    third = scaled(3, 3, [LEFT_2], [EIGHTH_1, EIGHTH_2], 4)
    assert splits_in_a_row([*events, third]) == 3
    merged = scaled(3, 3, [LEFT_1, LEFT_2], [part(7, 0.0, 0.5)], 2)
    again = scaled(4, 4, [part(7, 0.0, 0.5)], [part(8, 0.0, 0.1), part(9, 0.1, 0.5)], 3)
    assert splits_in_a_row([*events, merged, again]) == 2


def test_the_reaction_runs_from_the_last_rise_above_the_target():
    """A short peak an hour ago would count as a slow reaction."""

    def sample(at_ms: int, rate: float) -> StreamRates:
        return StreamRates("s", "t", at_ms, 0, 10, [SegmentRate(0, 0.0, 1.0, rate, 0.0, 0.0)])

    samples = [sample(1000, 20), sample(2000, 5), sample(3000, 20), sample(4000, 30)]
    found = reaction([scaled(1, 5500, [WHOLE], [LEFT, RIGHT], 2)], samples)
    assert found is not None
    assert found.max_s == 3.5


def test_checks_look_at_the_taxi_clock():
    """A night without merges or a morning without splits would pass."""
    clock = NightClock(0, 180.0)
    early, late = round(180_000 / 12 * 2.5), round(180_000 / 12 * 9)
    merge = scaled(1, early, [LEFT, RIGHT], [WHOLE], 1)
    split = scaled(2, late, [WHOLE], [part(8, 0.0, 0.1), part(9, 0.1, 1.0)], 2)
    story = tell(clock, [LEFT, RIGHT], [merge, split], [])
    assert [check.is_good for check in story.checks] == [True, True, False]
    assert (story.segments_max, story.segments_min) == (2, 1)
    quiet = tell(clock, [LEFT, RIGHT], [], [])
    assert [check.is_good for check in quiet.checks] == [False, False, False]


def test_the_policy_shrinks_with_the_night():
    """A short night would be scaled by the windows of a long one."""
    policy = policy_for(peak_rate=1000, event_length_bytes=1016, seconds=180)
    assert policy.target_kb_per_s == 182
    assert policy.tags == (
        "anabranch.scale.window=2500ms",
        "anabranch.scale.cooldown=2500ms",
        "anabranch.scale.merge-window=5000ms",
        "anabranch.scale.merge-cooldown=5000ms",
    )
    short = policy_for(peak_rate=1, event_length_bytes=200, seconds=60)
    assert short.tags[0] == "anabranch.scale.window=1000ms"
    assert short.target_kb_per_s == 1
