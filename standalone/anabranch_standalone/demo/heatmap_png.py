"""The heat map as a PNG, drawn twice as large as shown so that lines and letters are smooth."""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from anabranch_standalone.demo.heatmap import (
    HEIGHT,
    LEGEND,
    MAP,
    TRAFFIC,
    WIDTH,
    Box,
    Colour,
    Picture,
    colour,
    hour_ticks,
    nice_step,
)

SCALE: Final = 2
PAPER: Final[Colour] = (250, 249, 246)
INK: Final[Colour] = (28, 30, 40)
FAINT: Final[Colour] = (120, 122, 132)
GRID: Final[Colour] = (222, 220, 214)
SPLIT: Final[Colour] = (255, 255, 255)
MERGE: Final[Colour] = (94, 234, 212)
TRAFFIC_FILL: Final[Colour] = (246, 204, 150)
TRAFFIC_LINE: Final[Colour] = (214, 110, 40)
COUNT_LINE: Final[Colour] = (36, 92, 160)
SEAM: Final[Colour] = (150, 150, 178)
LEGEND_STEPS: Final = 256

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw(picture: Picture) -> bytes:
    """The bytes of the PNG file."""
    sheet = _Sheet()
    sheet.title(picture)
    _draw_traffic(sheet, picture)
    _draw_map(sheet, picture)
    _draw_legend(sheet, picture)
    return sheet.png()


class _Sheet:
    """A drawing in the units of the layout."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def png(self) -> bytes:
        out = BytesIO()
        self.image.save(out, "PNG", optimize=True)
        return out.getvalue()

    def rectangle(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        # Pillow includes the last pixel; neighbours would overlap by it.
        x1, y1 = round(left * SCALE), round(top * SCALE)
        x2, y2 = round(right * SCALE) - 1, round(bottom * SCALE) - 1
        if x2 >= x1 and y2 >= y1:
            self.pen.rectangle((x1, y1, x2, y2), fill=fill)

    def line(self, points: list[tuple[float, float]], fill: Colour, width: float) -> None:
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.pen.line(scaled, fill=fill, width=max(1, round(width * SCALE)), joint="curve")

    def polygon(self, points: list[tuple[float, float]], fill: Colour) -> None:
        self.pen.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=fill)

    def dot(self, x: float, y: float, radius: float, fill: Colour) -> None:
        x, y, radius = x * SCALE, y * SCALE, radius * SCALE
        self.pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

    def text(
        self, x: float, y: float, text: str, *, size: float, fill: Colour = INK, anchor: str = "la"
    ) -> None:
        self.pen.text((x * SCALE, y * SCALE), text, fill=fill, font=_font(size), anchor=anchor)

    def upright(self, x: float, y: float, text: str, *, size: float, fill: Colour) -> None:
        """Text from bottom to top, its middle at (x, y)."""
        font = _font(size)
        left, top, right, bottom = font.getbbox(text)
        label = Image.new("RGB", (round(right - left) + 4, round(bottom - top) + 8), PAPER)
        ImageDraw.Draw(label).text((2 - left, 4 - top), text, fill=fill, font=font)
        turned = label.rotate(90, expand=True)
        at = (round(x * SCALE - turned.width / 2), round(y * SCALE - turned.height / 2))
        self.image.paste(turned, at)

    def title(self, picture: Picture) -> None:
        self.text(MAP.left, 30, picture.title, size=30)
        self.text(MAP.left, 72, picture.subtitle, size=16, fill=FAINT)


_fonts: dict[float, Font] = {}


def _font(size: float) -> Font:
    if size not in _fonts:
        _fonts[size] = ImageFont.load_default(size * SCALE)
    return _fonts[size]


def _draw_traffic(sheet: _Sheet, picture: Picture) -> None:
    box = TRAFFIC
    highest = max((point.value for point in picture.traffic), default=1.0) * 1.1
    step = nice_step(highest, 4)
    for index in range(int(highest / step) + 1):
        y = box.y(index * step / highest)
        sheet.line([(box.left, y), (box.right, y)], GRID, 1)
        sheet.text(box.left - 8, y, f"{index * step:g}", size=13, fill=FAINT, anchor="rm")
    points = [(box.x(p.at_s), box.y(p.value / highest)) for p in picture.traffic]
    if len(points) > 1:
        feet = [(points[-1][0], box.bottom), (points[0][0], box.bottom)]
        sheet.polygon([*points, *feet], TRAFFIC_FILL)
        sheet.line(points, TRAFFIC_LINE, 1.6)
    _draw_counts(sheet, picture, box)
    sheet.line([(box.left, box.bottom), (box.right, box.bottom)], INK, 1)
    sheet.upright(30, box.top + box.height / 2, picture.unit, size=14, fill=INK)
    x = box.left + 4
    sheet.text(x, box.top - 8, "traffic", size=14, fill=TRAFFIC_LINE, anchor="lb")
    sheet.text(x + 58, box.top - 8, "segments", size=14, fill=COUNT_LINE, anchor="lb")


def _draw_counts(sheet: _Sheet, picture: Picture, box: Box) -> None:
    most = max((point.value for point in picture.counts), default=1.0) * 1.1
    steps: list[tuple[float, float]] = []
    for point in picture.counts:
        x, y = box.x(point.at_s), box.y(point.value / most)
        if steps:
            steps.append((x, steps[-1][1]))
        steps.append((x, y))
    if not steps:
        return
    steps.append((box.right, steps[-1][1]))
    sheet.line(steps, COUNT_LINE, 2)
    step = max(1.0, nice_step(most, 5))
    for index in range(int(most / step) + 1):
        y = box.y(index * step / most)
        text = f"{index * step:g}"
        sheet.text(box.right + 8, y, text, size=13, fill=COUNT_LINE, anchor="lm")


def _draw_map(sheet: _Sheet, picture: Picture) -> None:
    sheet.rectangle(MAP.left, MAP.top, MAP.right, MAP.bottom, colour(0.0))
    for cell in picture.cells:
        fill = colour(cell.rate / picture.rate_max)
        left, right = MAP.x(cell.start_s), MAP.x(cell.end_s)
        sheet.rectangle(left, MAP.y(cell.high), right, MAP.y(cell.low), fill)
    for span in picture.spans:
        for key in (span.low, span.high):
            if 0 < key < 1:
                left, right = MAP.x(span.start_s), MAP.x(span.end_s)
                sheet.line([(left, MAP.y(key)), (right, MAP.y(key))], SEAM, 0.6)
    for mark in picture.marks:
        tint = SPLIT if mark.kind == "split" else MERGE
        x = MAP.x(mark.at_s)
        sheet.line([(x, MAP.y(mark.low)), (x, MAP.y(mark.high))], tint, 1.6)
        for cut in mark.cuts:
            sheet.dot(x, MAP.y(cut), 3.4, tint)
    _draw_axes(sheet)


def _draw_axes(sheet: _Sheet) -> None:
    for at_s, text in hour_ticks():
        x = MAP.x(at_s)
        for box in (MAP, TRAFFIC):
            sheet.line([(x, box.bottom), (x, box.bottom + 6)], INK, 1)
        sheet.text(x, MAP.bottom + 11, text, size=15, anchor="ma")
    for part in range(5):
        y = MAP.y(part / 4)
        sheet.line([(MAP.left - 6, y), (MAP.left, y)], INK, 1)
        sheet.text(MAP.left - 10, y, f"{part / 4:g}", size=15, anchor="rm")
    sheet.upright(30, MAP.top + MAP.height / 2, "key space (hash of the pick-up place)",
                  size=16, fill=INK)  # fmt: skip
    sheet.text(MAP.left + MAP.width / 2, MAP.bottom + 44, "taxi time", size=16, anchor="ma")


def _draw_legend(sheet: _Sheet, picture: Picture) -> None:
    box = LEGEND
    for index in range(LEGEND_STEPS):
        top, bottom = box.y((index + 1) / LEGEND_STEPS), box.y(index / LEGEND_STEPS)
        sheet.rectangle(box.left, top, box.right, bottom, colour(index / (LEGEND_STEPS - 1)))
    step = nice_step(picture.rate_max, 5)
    for index in range(int(picture.rate_max / step) + 1):
        y = box.y(index * step / picture.rate_max)
        sheet.line([(box.right, y), (box.right + 5, y)], INK, 1)
        sheet.text(box.right + 9, y, f"{index * step:g}", size=13, anchor="lm")
    title = f"{picture.unit} per segment"
    sheet.text(WIDTH - 12, box.top - 12, title, size=13, anchor="rb")
    y = box.y(picture.target_rate / picture.rate_max)
    sheet.line([(box.left - 6, y), (box.right + 5, y)], INK, 2)
    sheet.text(box.left - 9, y, "target", size=13, anchor="rm")
    _draw_key(sheet)


def _draw_key(sheet: _Sheet) -> None:
    """What the lines mean, on the dark of the map, where they can be told apart."""
    x, y = MAP.right - 210, MAP.top - 30
    sheet.rectangle(x, y, x + 210, y + 24, colour(0.1))
    for offset, text, tint in ((14, "split", SPLIT), (110, "merge", MERGE)):
        sheet.line([(x + offset, y + 4), (x + offset, y + 20)], tint, 2)
        sheet.dot(x + offset, y + 12, 3.4, tint)
        sheet.text(x + offset + 12, y + 12, text, size=14, fill=tint, anchor="lm")


assert all(left < right for left, right in pairwise((MAP.left, MAP.right, LEGEND.left)))
