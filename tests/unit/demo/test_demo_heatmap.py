"""The heat map shows what was measured, on pages that need nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from io import BytesIO

from anabranch_events.bus import SegmentRate, StreamRates
from anabranch_events.feed import StreamScaled
from anabranch_events.model import SegmentRange
from anabranch_standalone.demo import heatmap, heatmap_html, heatmap_png
from anabranch_standalone.demo.heatmap import HEIGHT, MAP, WIDTH, Picture, colour, nice_step
from anabranch_standalone.demo.nightclock import NIGHT_S, NightClock
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

CLOCK = NightClock(1_000_000, 180.0)
WHOLE = SegmentRange(0, 0.0, 1.0)
LEFT, RIGHT = SegmentRange(1 << 32 | 1, 0.0, 0.5), SegmentRange(1 << 32 | 2, 0.5, 1.0)
SPLIT_MS = 1_000_000 + 90_000


def night() -> Picture:
    """Cold until the middle, then split; the upper half is hot from there on."""
    samples = []
    for second in range(1, 181):
        at_ms = 1_000_000 + second * 1000
        if at_ms <= SPLIT_MS:
            segments = [SegmentRate(0, 0.0, 1.0, 1.0, 0.0, 0.0)]
        else:
            segments = [
                SegmentRate(LEFT.id, 0.0, 0.5, 1.0, 0.0, 0.0),
                SegmentRate(RIGHT.id, 0.5, 1.0, 100.0, 0.0, 0.0),
            ]
        samples.append(StreamRates("s", "t", at_ms, 0, 80, segments))
    split = StreamScaled(
        "s", "t", 1, "load", "too <hot> & bothered", 100.0, 80.0, (WHOLE,), (LEFT, RIGHT),
        1, 0, 2, SPLIT_MS - 50, SPLIT_MS, 50,
    )  # fmt: skip
    return heatmap.compose(
        title="A night",
        subtitle="for a test",
        unit="KB/s",
        target_rate=80.0,
        clock=CLOCK,
        initial=[WHOLE],
        samples=samples,
        scaled=[split, split],
    )


def test_cells_are_cut_at_the_scale_and_repeated_events_count_once():
    """A split would be drawn twice, or its colours beside its line."""
    picture = night()
    assert len(picture.marks) == 1
    assert picture.marks[0].cuts == (0.5,)
    assert [point.value for point in picture.counts] == [1.0, 2.0]
    split_s = CLOCK.taxi_s(SPLIT_MS)
    assert max(cell.end_s for cell in picture.cells if cell.segment == 0) <= split_s
    assert min(cell.start_s for cell in picture.cells if cell.segment == RIGHT.id) >= split_s
    assert picture.rate_max == 100.0


def test_the_png_shows_hot_where_it_was_hot():
    """The picture would be upside down, or dark where the rush was."""
    image = Image.open(BytesIO(heatmap_png.draw(night()))).convert("RGB")
    assert image.size == (2 * WIDTH, 2 * HEIGHT)

    def at(taxi_share: float, key: float) -> tuple[int, int, int]:
        x, y = MAP.x(NIGHT_S * taxi_share), MAP.y(key)
        pixel = image.getpixel((round(2 * x), round(2 * y)))
        assert isinstance(pixel, tuple)
        return pixel[:3]

    assert at(0.75, 0.75) == colour(1.0)
    assert at(0.75, 0.25) == colour(0.01)
    assert at(0.25, 0.75) == colour(0.01)
    assert at(0.5, 0.3) == heatmap_png.SPLIT


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.kinds: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta",):
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "data")]
        self.kinds += [value for name, value in attrs if name == "class"]

    def handle_startendtag(self, tag, attrs):
        self.kinds += [value for name, value in attrs if name == "class"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_whole_and_needs_nothing_from_elsewhere():
    """A page that was mailed to somebody would be empty, or ask a foreign server."""
    text = heatmap_html.page(night())
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.links == []
    assert "url(http" not in text
    assert "@import" not in text
    assert "<script" not in text
    words = " ".join(page.words)
    for wanted in ("A night", "23:00", "11:00", "taxi time", "key space", "KB/s per segment"):
        assert wanted in words
    assert "too <hot> & bothered" in words
    assert "too <hot>" not in text
    assert "split" in page.kinds
    assert page.kinds.count("cell") == len(night().cells)


def test_an_empty_night_still_gives_a_picture():
    """A run that was cut short would end in a traceback."""
    picture = heatmap.compose(
        title="t", subtitle="", unit="KB/s", target_rate=1.0, clock=CLOCK,
        initial=[WHOLE], samples=[], scaled=[],
    )  # fmt: skip
    assert heatmap_png.draw(picture).startswith(b"\x89PNG")
    assert re.search("<svg", heatmap_html.page(picture))


@given(st.floats(-1, 2))
def test_every_share_has_a_colour(share):
    """A rate above the legend would break the drawing."""
    assert all(0 <= part <= 255 for part in colour(share))


@given(st.floats(1e-6, 1e9), st.integers(1, 10))
def test_steps_are_round_and_few(span, ticks_count):
    """An axis would carry a hundred labels, or none."""
    step = nice_step(span, ticks_count)
    assert span / step <= ticks_count * 1.0001
    assert f"{step:.3e}"[0] in "125"
