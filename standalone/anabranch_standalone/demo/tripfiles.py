"""Trips from the Taxi and Limousine Commission's own CSV files.

Both forms of their columns are understood: newer files name a zone (`PULocationID`), older
ones the coordinates of the pick-up (`pickup_longitude`, `pickup_latitude`), which become a cell
of about a kilometre. A row that cannot be used is counted by its reason, with the first such
line, and never ends the reading.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from anabranch_standalone.demo.nightclock import DAY_S, HOUR_S, NIGHT_S, NIGHT_START_HOUR
from anabranch_standalone.demo.trips import Trip

TRIPS_KEPT_MAX: Final = 200_000  # a random sample of a larger file; a month has millions of rows
SATURDAY: Final = 5  # the nights of the week end have another shape
CELL_DEGREES: Final = 100  # parts of a degree
# Whatever lies farther out is a broken GPS (many rows say 0, 0).
LONGITUDE_RANGE: Final = (-75.5, -72.5)
LATITUDE_RANGE: Final = (39.5, 42.0)

_TIME_COLUMNS: Final = (
    "tpep_pickup_datetime",
    "lpep_pickup_datetime",
    "pickup_datetime",
    "trip_pickup_datetime",
)
_ZONE_COLUMN: Final = "pulocationid"
_LONGITUDE_COLUMNS: Final = ("pickup_longitude", "start_lon")
_LATITUDE_COLUMNS: Final = ("pickup_latitude", "start_lat")


class NoTrips(Exception):
    """A file from which no trip can be had; says why."""


class BadRow(Exception):
    """Why a row cannot be used."""


@dataclass(slots=True)
class Reading:
    """What a file gave. `malformed` maps a reason to (how many rows, line of the first)."""

    trips: list[Trip] = field(default_factory=list)
    rows_count: int = 0
    by_day_count: int = 0
    weekend_count: int = 0
    malformed: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def malformed_count(self) -> int:
        return sum(count for count, _ in self.malformed.values())

    def summary(self) -> str:
        parts = [f"{self.rows_count:,} rows", f"{len(self.trips):,} trips of week nights used"]
        if self.by_day_count or self.weekend_count:
            parts.append(
                f"{self.by_day_count:,} by day and {self.weekend_count:,} of week ends left out"
            )
        for reason, (count, line) in sorted(self.malformed.items()):
            parts.append(f"{count:,} malformed: {reason} (first in line {line:,})")
        return ", ".join(parts)


class _Columns(NamedTuple):
    time: int
    zone: int | None
    longitude: int | None
    latitude: int | None


def read_trips(path: Path, rng: random.Random) -> Reading:
    """The night trips of a file. Raises NoTrips."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reading = read_rows(file, rng)
    except OSError as error:
        raise NoTrips(f"{path}: {error.strerror or error}") from error
    except NoTrips as error:
        raise NoTrips(f"{path}: {error}") from error
    if not reading.trips:
        raise NoTrips(f"{path}: no trip between 23:00 and 11:00 ({reading.summary()})")
    return reading


def read_rows(lines: Iterable[str], rng: random.Random) -> Reading:
    """As read_trips, from the lines of a file. Raises NoTrips for a header without our columns."""
    reader = csv.reader(lines)
    columns = _columns(next(reader, []))
    reading = Reading()
    for line, row in _rows(reader, reading):
        reading.rows_count += 1
        try:
            when, place = _time(row, columns), _place(row, columns)
        except BadRow as bad:
            count, first = reading.malformed.get(str(bad), (0, line))
            reading.malformed[str(bad)] = (count + 1, first)
            continue
        _keep(reading, when, place, rng)
    return reading


def _rows(reader: Iterator[list[str]], reading: Reading) -> Iterator[tuple[int, list[str]]]:
    """The rows with their lines; one that even the CSV reader cannot split counts as malformed."""
    line = 1
    while True:
        line += 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            reading.rows_count += 1
            count, first = reading.malformed.get("not CSV", (0, line))
            reading.malformed["not CSV"] = (count + 1, first)
            continue
        if row:  # some files have an empty line under the header
            yield line, row


def _columns(header: list[str]) -> _Columns:
    names = {name.strip().lower(): index for index, name in enumerate(header)}
    time = next((names[name] for name in _TIME_COLUMNS if name in names), None)
    longitude = next((names[name] for name in _LONGITUDE_COLUMNS if name in names), None)
    latitude = next((names[name] for name in _LATITUDE_COLUMNS if name in names), None)
    zone = names.get(_ZONE_COLUMN)
    if time is None or (zone is None and (longitude is None or latitude is None)):
        raise NoTrips(
            "the first line names no tpep_pickup_datetime with PULocationID or"
            " pickup_longitude and pickup_latitude"
        )
    return _Columns(time, zone, longitude, latitude)


def _time(row: list[str], columns: _Columns) -> datetime:
    text = _field(row, columns.time, "pick-up time")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise BadRow("pick-up time unreadable") from None


def _place(row: list[str], columns: _Columns) -> str:
    if columns.zone is not None:
        zone = _field(row, columns.zone, "pick-up zone")
        if not zone.removesuffix(".0").isdecimal():
            raise BadRow("pick-up zone is no number")
        return zone.removesuffix(".0")
    assert columns.longitude is not None
    assert columns.latitude is not None
    longitude = _degrees(row, columns.longitude, LONGITUDE_RANGE, "longitude")
    latitude = _degrees(row, columns.latitude, LATITUDE_RANGE, "latitude")
    east, north = int(longitude * CELL_DEGREES), int(latitude * CELL_DEGREES)
    return f"{north / CELL_DEGREES:.2f},{east / CELL_DEGREES:.2f}"


def _degrees(row: list[str], column: int, limits: tuple[float, float], name: str) -> float:
    text = _field(row, column, name)
    try:
        degrees = float(text)
    except ValueError:
        raise BadRow(f"{name} is no number") from None
    if not limits[0] <= degrees <= limits[1]:
        raise BadRow(f"{name} is far from New York")
    return degrees


def _field(row: list[str], column: int, name: str) -> str:
    text = row[column].strip() if column < len(row) else ""
    if not text:
        raise BadRow(f"{name} missing")
    return text


def _keep(reading: Reading, when: datetime, place: str, rng: random.Random) -> None:
    second_of_day = when.hour * HOUR_S + when.minute * 60 + when.second
    at_s = (second_of_day - NIGHT_START_HOUR * HOUR_S) % DAY_S
    if when.weekday() >= SATURDAY:
        reading.weekend_count += 1
    elif at_s >= NIGHT_S:
        reading.by_day_count += 1
    elif len(reading.trips) < TRIPS_KEPT_MAX:
        reading.trips.append(Trip(float(at_s), place))
    else:
        # A fair sample of all night trips: the n-th replaces one with probability kept / n.
        seen = reading.rows_count - reading.by_day_count - reading.weekend_count
        index = rng.randrange(seen)
        if index < TRIPS_KEPT_MAX:
            reading.trips[index] = Trip(float(at_s), place)
