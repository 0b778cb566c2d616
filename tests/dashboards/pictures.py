"""Pictures of the dashboards: each panel as graphite-web renders it, side by side as in Grafana.

What Prometheus has answered is written to carbon first: there is one painter for both.
"""

from __future__ import annotations

import io
import re
import time

from PIL import Image, ImageDraw, ImageFont

from dashboards.alerts import ALERTS
from dashboards.grafana import FIRST_ROW, widths
from dashboards.panels import PANEL_ROWS
from tests.dashboards.asking import Asked
from tests.dashboards.scenario import Run

WIDTH, HEIGHT, HEADING, NUMBER = 1500, 270, 34, 74
GAP = 6
LOOK = {
    "bgcolor": "white",
    "fgcolor": "black",
    "fontSize": 9,
    "lineWidth": 1.5,
    "lineMode": "connected",
    "hideLegend": "false",
    "majorGridLineColor": "#dddddd",
    "minorGridLineColor": "#f4f4f4",
    "colorList": "#1f77b4,#ff7f0e,#2ca02c,#d62728,#9467bd,#8c564b,#e377c2,#17becf,#bcbd22,#7f7f7f",
    "tz": "UTC",
    "yMin": 0,
}
MARKS = {"deploy": "#4444ff", "outage": "#ff2222", "recovery": "#22aa22"}
#: A panel has its highest lines, with room for their names below them.
MOST_LINES = 8


def draw(run: Run, kind: str, panels: list[Asked]) -> bytes:
    """The picture of a dashboard."""
    by_title = {panel.title: panel for panel in panels}
    _write(run, kind, panels)
    lines = [widths(len(row.panels)) for row in PANEL_ROWS]
    heights = [HEADING + HEIGHT * (sum(line) // 24) for line in lines]
    sheet = Image.new("RGB", (WIDTH, HEADING + NUMBER + sum(heights)), "white")
    _numbers(ImageDraw.Draw(sheet), kind, panels[: len(ALERTS) + 1])
    top = HEADING + NUMBER
    for row, line, height in zip(PANEL_ROWS, lines, heights, strict=True):
        _heading(ImageDraw.Draw(sheet), f"{row.title}: {row.question}", top)
        column = 0
        for panel, columns in zip(row.panels, line, strict=True):
            x, y = WIDTH * (column % 24) // 24, top + HEADING + HEIGHT * (column // 24)
            width = WIDTH * columns // 24
            one = _panel(run, kind, by_title[panel.title], width - GAP, HEIGHT - GAP)
            sheet.paste(one, (x + GAP // 2, y + GAP // 2))
            column += columns
        top += height
    small = io.BytesIO()
    sheet.quantize(256).save(small, "PNG", optimize=True)
    return small.getvalue()


def _panel(run: Run, kind: str, panel: Asked, width: int, height: int) -> Image.Image:
    highest = {name: max(value for _, value in points) for name, points in panel.lines.items() if points}
    names = sorted(highest, key=lambda name: -highest[name])[:MOST_LINES]
    names = [name for name in names if highest[name] > 0] or names[:1]
    targets = [f"alias({_path(kind, panel, name)},'{name}')" for name in names]
    targets += [f"color(alias(drawAsInfinite(marks.{what}),'{what}'),'{color}')" for what, color in MARKS.items()]
    unit = {"cps": "a second", "short": ""}.get(panel.unit, panel.unit)
    title = f"{panel.title} ({unit})" if unit else panel.title
    picture = run.graphite.picture(targets, run.began - 3, run.ended, width=width, height=height, title=title, **LOOK)
    return Image.open(io.BytesIO(picture))


def _path(kind: str, panel: Asked, name: str) -> str:
    return ".".join(["drawn", *(re.sub(r"[^a-zA-Z0-9]", "_", one) for one in (kind, panel.title, name))])


def _write(run: Run, kind: str, panels: list[Asked]) -> None:
    """The lines that a dashboard shows, and the moments of the run, as series of Graphite."""
    points = [(f"marks.{what}", 1.0, run.at(what)) for what in MARKS]
    for panel in panels:
        for name, some in panel.lines.items():
            points += [(_path(kind, panel, name), value, at) for at, value in some if value == value]
    run.graphite.write(points)
    time.sleep(2)


def _numbers(pen: ImageDraw.ImageDraw, kind: str, panels: list[Asked]) -> None:
    """The first row, as it stood at the end."""
    _heading(pen, FIRST_ROW, 0)
    width = WIDTH / len(panels)
    for index, panel in enumerate(panels):
        alert = next((alert for alert in ALERTS if alert.title == panel.title), None)
        counted = kind == "graphite" and alert is not None and alert.row.kind == "counter"
        reduce = sum if counted else (lambda values: values[-1])
        values = [reduce([value for _, value in points]) for points in panel.lines.values()]
        value = max(values, default=0.0)
        bad = value < 1 if alert is None else value > alert.limit
        left = index * width
        box = (left + GAP // 2, HEADING + 2, left + width - GAP // 2, HEADING + NUMBER - 4)
        pen.rectangle(box, fill="#c4162a" if bad else "#37872d")
        unit = {"s": " s", "percent": " %"}.get(panel.unit, "")
        pen.text((left + 12, HEADING + 8), panel.title, fill="white", font=_font(15))
        pen.text((left + 12, HEADING + 30), f"{value:.3g}{unit}", fill="white", font=_font(28))


def _heading(pen: ImageDraw.ImageDraw, text: str, top: int) -> None:
    pen.rectangle((0, top, WIDTH, top + HEADING - 4), fill="#e9edf2")
    pen.text((10, top + 4), text, fill="black", font=_font(18))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
