"""The heat map as one page: inline SVG, no script, no font and no picture from elsewhere.

Every cell and every line has a title, which browsers show when the pointer rests on it.
"""

from __future__ import annotations

from html import escape

from anabranch_standalone.demo.heatmap import (
    HEIGHT,
    LEGEND,
    MAP,
    RAMP,
    TRAFFIC,
    WIDTH,
    Picture,
    Point,
    colour,
    hour_ticks,
    nice_step,
)
from anabranch_standalone.demo.nightclock import label

_STYLE = """
  :root { color-scheme: light; }
  body { margin: 0; background: #faf9f6; color: #1c1e28;
         font: 15px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
  main { max-width: 1600px; margin: 0 auto; padding: 12px; }
  svg { width: 100%; height: auto; display: block; }
  text { fill: #1c1e28; font-size: 15px; }
  .title { font-size: 30px; font-weight: 600; }
  .faint { fill: #787a84; }
  .small { font-size: 13px; }
  .traffic { fill: #f6cc96; stroke: #d66e28; stroke-width: 1.6; }
  .counts { fill: none; stroke: #245ca0; stroke-width: 2; }
  .grid { stroke: #dedcd6; }
  .axis { stroke: #1c1e28; }
  .seam { stroke: #9696b2; stroke-width: .7; }
  .split { stroke: #fff; fill: #fff; stroke-width: 1.8; }
  .merge { stroke: #5eead4; fill: #5eead4; stroke-width: 1.8; }
  .cell:hover { stroke: #fff; stroke-width: 1; }
  table { border-collapse: collapse; margin: 16px 0 40px 96px; font-variant-numeric: tabular-nums; }
  th, td { text-align: left; padding: 3px 18px 3px 0; vertical-align: top; }
  th { color: #787a84; font-weight: 500; border-bottom: 1px solid #dedcd6; }
"""


def page(picture: Picture) -> str:
    """The whole HTML document."""
    drawing = [*_header(picture), *_traffic(picture), *_map(picture), *_axes(), *_legend(picture)]
    svg = "\n".join(drawing)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(picture.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(picture.title)}">\n'
        f"{svg}\n</svg>\n{_table(picture)}\n</main>\n</body>\n</html>\n"
    )


def _header(picture: Picture) -> list[str]:
    return [
        _text(MAP.left, 54, picture.title, "title"),
        _text(MAP.left, 88, picture.subtitle, "faint"),
    ]


def _traffic(picture: Picture) -> list[str]:
    box = TRAFFIC
    highest = max((point.value for point in picture.traffic), default=1.0) * 1.1
    step = nice_step(highest, 4)
    parts: list[str] = []
    for index in range(int(highest / step) + 1):
        y = box.y(index * step / highest)
        parts.append(_line(box.left, y, box.right, y, "grid"))
        parts.append(_text(box.left - 8, y + 5, f"{index * step:g}", "small faint", "end"))
    if len(picture.traffic) > 1:
        points = [(box.x(p.at_s), box.y(p.value / highest)) for p in picture.traffic]
        feet = [(points[-1][0], box.bottom), (points[0][0], box.bottom)]
        parts.append(f'<polygon class="traffic" points="{_points([*points, *feet])}"/>')
    parts += _counts(picture.counts)
    parts.append(_line(box.left, box.bottom, box.right, box.bottom, "axis"))
    parts.append(_upright(30, box.top + box.height / 2, picture.unit))
    parts.append(_text(box.left + 4, box.top - 10, "traffic", "small", fill="#d66e28"))
    parts.append(_text(box.left + 62, box.top - 10, "segments", "small", fill="#245ca0"))
    return parts


def _counts(counts: list[Point]) -> list[str]:
    box = TRAFFIC
    most = max((point.value for point in counts), default=1.0) * 1.1
    steps: list[tuple[float, float]] = []
    for point in counts:
        x, y = box.x(point.at_s), box.y(point.value / most)
        if steps:
            steps.append((x, steps[-1][1]))
        steps.append((x, y))
    if not steps:
        return []
    steps.append((box.right, steps[-1][1]))
    parts = [f'<polyline class="counts" points="{_points(steps)}"/>']
    step = max(1.0, nice_step(most, 5))
    for index in range(int(most / step) + 1):
        y = box.y(index * step / most) + 5
        parts.append(_text(box.right + 8, y, f"{index * step:g}", "small", fill="#245ca0"))
    return parts


def _map(picture: Picture) -> list[str]:
    parts = [_rect(MAP.left, MAP.top, MAP.width, MAP.height, _css(0.0))]
    for cell in picture.cells:
        left, top = MAP.x(cell.start_s), MAP.y(cell.high)
        # A hair wider than it is, or the seams of neighbours shine through.
        width, height = MAP.x(cell.end_s) - left + 0.4, MAP.y(cell.low) - top
        title = (
            f"{label(cell.end_s)}  segment {cell.segment >> 32}.{cell.segment & 0xFFFFFFFF}"
            f"  [{cell.low:.4g}, {cell.high:.4g})  {cell.rate:.1f} {picture.unit}"
        )
        fill = _css(cell.rate / picture.rate_max)
        parts.append(_rect(left, top, width, height, fill, title=title))
    for span in picture.spans:
        parts += [
            _line(MAP.x(span.start_s), MAP.y(key), MAP.x(span.end_s), MAP.y(key), "seam")
            for key in (span.low, span.high)
            if 0 < key < 1
        ]
    for mark in picture.marks:
        x = MAP.x(mark.at_s)
        line = _line(x, MAP.y(mark.low), x, MAP.y(mark.high), "")
        dots = [f'<circle cx="{x:.1f}" cy="{MAP.y(cut):.1f}" r="3.4"/>' for cut in mark.cuts]
        title = f"<title>{label(mark.at_s)}  {escape(mark.reason)}</title>"
        parts.append(f'<g class="{mark.kind}">{title}{line}{"".join(dots)}</g>')
    return parts


def _axes() -> list[str]:
    parts: list[str] = []
    for at_s, text in hour_ticks():
        x = MAP.x(at_s)
        parts += [_line(x, box.bottom, x, box.bottom + 6, "axis") for box in (MAP, TRAFFIC)]
        parts.append(_text(x, MAP.bottom + 26, text, "", "middle"))
    for part in range(5):
        y = MAP.y(part / 4)
        parts.append(_line(MAP.left - 6, y, MAP.left, y, "axis"))
        parts.append(_text(MAP.left - 10, y + 5, f"{part / 4:g}", "", "end"))
    middle = MAP.top + MAP.height / 2
    parts.append(_upright(30, middle, "key space (hash of the pick-up place)"))
    parts.append(_text(MAP.left + MAP.width / 2, MAP.bottom + 60, "taxi time", "", "middle"))
    return parts


def _legend(picture: Picture) -> list[str]:
    box = LEGEND
    stops = "".join(f'<stop offset="{at}" stop-color="{_css(at)}"/>' for at, _ in RAMP)
    parts = [
        f'<linearGradient id="ramp" x1="0" y1="1" x2="0" y2="0">{stops}</linearGradient>',
        _rect(box.left, box.top, box.width, box.height, "url(#ramp)"),
        _text(WIDTH - 12, box.top - 14, f"{picture.unit} per segment", "small", "end"),
    ]
    step = nice_step(picture.rate_max, 5)
    for index in range(int(picture.rate_max / step) + 1):
        y = box.y(index * step / picture.rate_max)
        parts.append(_line(box.right, y, box.right + 5, y, "axis"))
        parts.append(_text(box.right + 9, y + 4, f"{index * step:g}", "small"))
    y = box.y(picture.target_rate / picture.rate_max)
    parts.append(_line(box.left - 6, y, box.right + 5, y, "axis"))
    parts.append(_text(box.left - 9, y + 4, "target", "small", "end"))
    x, y = MAP.right - 210, MAP.top - 30
    parts.append(_rect(x, y, 210, 24, _css(0.1)))
    for offset, kind, tint in ((14, "split", "#fff"), (110, "merge", "#5eead4")):
        line = _line(x + offset, y + 4, x + offset, y + 20, kind)
        dot = f'<circle class="{kind}" cx="{x + offset}" cy="{y + 12}" r="3.4"/>'
        parts += [line, dot, _text(x + offset + 12, y + 17, kind, "small", fill=tint)]
    return parts


def _table(picture: Picture) -> str:
    """Every split and merge with its reason, for those who want to read it."""
    rows = [
        f"<tr><td>{label(mark.at_s)}</td><td>{mark.kind}</td>"
        f"<td>[{mark.low:.4g}, {mark.high:.4g})</td>"
        f"<td>{', '.join(f'{cut:.4g}' for cut in mark.cuts)}</td>"
        f"<td>{escape(mark.reason)}</td></tr>"
        for mark in picture.marks
    ]
    head = "<tr><th>time</th><th></th><th>key range</th><th>at</th><th>why</th></tr>"
    return "<table>\n" + "\n".join([head, *rows]) + "\n</table>"


def _css(share: float) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour(share))


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _rect(
    left: float, top: float, width: float, height: float, fill: str, *, title: str = ""
) -> str:
    inner = f"<title>{escape(title)}</title>" if title else ""
    kind = ' class="cell"' if title else ""
    return (
        f'<rect{kind} x="{left:.1f}" y="{top:.1f}" width="{max(width, 0):.1f}"'
        f' height="{max(height, 0):.1f}" fill="{fill}">{inner}</rect>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    classes = f' class="{kind}"' if kind else ""
    return f'<line{classes} x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(
    x: float, y: float, text: str, kind: str, anchor: str = "start", *, fill: str = ""
) -> str:
    style = f' style="fill:{fill}"' if fill else ""
    classes = f' class="{kind}"' if kind else ""
    return (
        f'<text{classes} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>'
        f"{escape(text)}</text>"
    )


def _upright(x: float, y: float, text: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle"'
        f' transform="rotate(-90 {x:.1f} {y:.1f})">{escape(text)}</text>'
    )
