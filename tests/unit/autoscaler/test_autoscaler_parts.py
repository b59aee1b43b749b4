"""Windows, densities and tags, each for itself."""

from __future__ import annotations

from itertools import pairwise

import pytest
from anabranch_autoscaler.domain.density import CELLS_MAX, Density
from anabranch_autoscaler.domain.tags import InvalidDuration, parse_duration_s
from anabranch_autoscaler.domain.windows import BUCKETS_MAX, Rate, RateWindow, Sample, inherited
from hypothesis import given
from hypothesis import strategies as st


def filled(count: int, *, rate: float = 10.0, recent_s: float = 10.0, kept_s: float = 100.0):
    window = RateWindow(recent_s=recent_s, kept_s=kept_s)
    for second in range(count):
        window.add(Sample(float(second), 1.0, Rate(rate * 100, rate)))
    return window


def test_a_window_that_is_not_covered_is_not_known():
    """A segment of two seconds would be judged as if it had been quiet for a minute."""
    window = filled(5)
    assert window.rate(4.0, 5.0) == Rate(1000.0, 10.0)
    assert window.rate(4.0, 10.0) is None


def test_a_stale_window_is_not_known():
    """The last rate of a dead store would be believed for ever."""
    window = filled(20)
    assert window.rate(21.0, 5.0) is not None
    assert window.rate(23.0, 5.0) is None


def test_old_samples_are_put_together_but_keep_their_sum():
    """A merge window of hours would cost memory per second, or forget what it held."""
    window = filled(1000, recent_s=10, kept_s=640)
    assert len(window.buckets) <= BUCKETS_MAX + 1
    assert len(window.recent) <= 13
    rate = window.rate(999.0, 640.0)
    assert rate is not None
    assert rate.events_per_s == pytest.approx(10.0)


def test_children_inherit_their_share_and_merged_segments_the_sum():
    """Every scale would begin with a blind window."""
    left, right = filled(30, rate=30.0), filled(30, rate=10.0)
    merged = inherited([(left, 1.0), (right, 1.0)], recent_s=10, kept_s=100)
    assert merged.rate(29.0, 10.0) == Rate(4000.0, 40.0)
    child = inherited([(merged, 0.25)], recent_s=10, kept_s=100)
    assert child.rate(29.0, 10.0) == Rate(1000.0, 10.0)
    rate = child.rate(29.0, 25.0)
    assert rate is not None
    assert rate.events_per_s == pytest.approx(10.0)


def test_an_unknown_range_is_cut_in_the_middle():
    """The first split of a stream would be lopsided for no reason."""
    density = Density()
    density.observe(0.0, 1.0, 100.0)
    assert density.cuts(0.0, 1.0, 2) == [0.5]
    assert density.cuts(0.0, 1.0, 4) == [0.25, 0.5, 0.75]


def test_a_known_range_is_cut_where_its_load_halves():
    """What narrower segments taught would be forgotten at the next split."""
    density = Density()
    density.observe(0.0, 0.5, 10.0)
    density.observe(0.5, 1.0, 90.0)
    density.observe(0.0, 1.0, 200.0)
    [cut] = density.cuts(0.0, 1.0, 2)
    assert cut == pytest.approx(0.5 + 0.5 * (100 - 20) / 180)
    assert density.load(0.0, 0.5) == pytest.approx(20.0)


def test_proportions_fade_when_they_are_not_seen_again():
    """A hot place of last week would bend the cuts of today."""
    density = Density()
    density.observe(0.0, 0.5, 10.0)
    density.observe(0.5, 1.0, 90.0)
    for _ in range(100):
        density.observe(0.0, 1.0, 100.0, keep=0.9)
    assert density.cuts(0.0, 1.0, 2) == [pytest.approx(0.5, abs=1e-3)]


@given(
    st.lists(
        st.tuples(st.floats(0, 0.999), st.floats(0.001, 1), st.floats(0, 1e6), st.floats(0, 1)),
        max_size=40,
    ),
    st.integers(2, 9),
)
def test_cuts_always_rise_inside_their_range(observations, parts):
    """A split would make an empty or a reversed key range."""
    density = Density()
    for low, high, rate, keep in observations:
        if low < high:
            density.observe(low, high, rate, keep=keep)
    bounds = [0.25, *density.cuts(0.25, 0.75, parts), 0.75]
    assert len(bounds) == parts + 1
    assert all(left < right for left, right in pairwise(bounds))
    assert density.bounds[0] == 0.0
    assert density.bounds[-1] == 1.0
    assert len(density.rates) == len(density.bounds) - 1 <= CELLS_MAX


def test_cells_are_bounded_and_the_load_is_kept():
    """Years of splits would fill the memory with forgotten bounds."""
    density = Density()
    count = 3 * CELLS_MAX
    for index in range(count):
        density.observe(index / count, (index + 1) / count, 5.0)
        assert len(density.rates) <= CELLS_MAX
    assert density.bounds[0] == 0.0
    assert density.bounds[-1] == 1.0
    assert density.load(0.0, 1.0) == pytest.approx(sum(density.rates))
    assert density.load(0.0, 0.5) == pytest.approx(density.load(0.5, 1.0), rel=0.1)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1500ms", 1.5), ("2s", 2), ("10m", 600), ("1.5h", 5400), ("0.5s", 0.5)]
)
def test_durations_read_as_people_write_them(text, seconds):
    """A tag would mean something else than it says."""
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "2", "s", "-2s", "2 s", "1e3s", "10us", "0s", "1ms", "900h"])
def test_what_is_no_duration_is_refused(text):
    """A window of nothing or of years would be taken at its word."""
    with pytest.raises(InvalidDuration):
        parse_duration_s(text)
