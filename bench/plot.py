"""Horizontal bars as SVG: readable on a light and on a dark page, no library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABELS, VALUES = 760, 250, 90
BAR, GAP, BETWEEN, TOP = 15, 3, 13, 84

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #3d444d }
.title { font-size: 16px; font-weight: 600 } .note { fill: #6e7781; font-size: 12px } .value { font-size: 12px }
.ours-0 { fill: #0b7a75 } .ours-1 { fill: #5fb3ae } .theirs-0 { fill: #8c959f } .theirs-1 { fill: #c4cbd2 }
.axis { stroke: #8c959f; stroke-width: 1 }
@media (prefers-color-scheme: dark) {
text { fill: #d1d7e0 } .note { fill: #9198a1 }
.ours-0 { fill: #2fb5ae } .ours-1 { fill: #1a716d } .theirs-0 { fill: #7d8590 } .theirs-1 { fill: #4b535d }
}
"""


@dataclass(frozen=True)
class Bars:
    """One line of the plot: a value a series, None for one that was not measured."""

    label: str
    values: Sequence[float | None]
    ours: bool = False


def bars(title: str, note: str, series: Sequence[str], rows: Sequence[Bars], form: str = "{:.0f}") -> str:
    """The SVG's text; the longest bar fills the width, and all begin at zero."""
    most = max((value for row in rows for value in row.values if value is not None), default=1.0)
    step = len(series) * (BAR + GAP) + BETWEEN
    height = TOP + len(rows) * step + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        _text(16, 26, title, "title"),
        _text(16, 46, note, "note"),
        *_legend(series),
    ]
    for index, row in enumerate(rows):
        parts += _row(row, TOP + index * step, most, form)
    parts.append(f'<line class="axis" x1="{LABELS}" x2="{LABELS}" y1="{TOP - 6}" y2="{height - 10}"/>')
    return "\n".join([*parts, "</svg>", ""])


def _row(row: Bars, top: int, most: float, form: str) -> list[str]:
    who = "ours" if row.ours else "theirs"
    middle = top + len(row.values) * (BAR + GAP) / 2 + 3
    parts = [_text(LABELS - 10, middle, row.label, anchor="end", weight="600" if row.ours else "400")]
    for index, value in enumerate(row.values):
        y = top + index * (BAR + GAP)
        length = 0.0 if value is None else value / most * (WIDTH - LABELS - VALUES)
        told = "not measured" if value is None else form.format(value)
        parts.append(f'<rect class="{who}-{index}" x="{LABELS}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>')
        parts.append(_text(LABELS + length + 7, y + 12, told, "value"))
    return parts


def _legend(series: Sequence[str]) -> list[str]:
    if len(series) < 2:
        return []
    parts, x = [], LABELS
    for index, name in enumerate(series):
        parts.append(f'<rect class="ours-{index}" x="{x}" y="57" width="12" height="12" rx="2"/>')
        parts.append(f'<rect class="theirs-{index}" x="{x + 15}" y="57" width="12" height="12" rx="2"/>')
        parts.append(_text(x + 33, 67, name, "note"))
        x += 60 + 8 * len(name)
    return parts


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start", weight: str = "") -> str:
    extra = f' class="{kind}"' if kind else ""
    extra += f' font-weight="{weight}"' if weight else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'
