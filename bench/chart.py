"""A chart of bars as SVG, written by hand: a panel per database and phase, a bar per side."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .comparison import OURS, PHASES, RAW, Compared

__all__ = ["PHASE_NAMES", "as_svg"]

PHASE_NAMES = {
    "cycle": "add, claim, complete: one by one",
    "add": "add one job",
    "bulk": "add 1,000 at once",
    "drain": "claim and complete many",
}

_WIDTH, _MARGIN, _GAP = 860, 16, 20
_LABEL, _FIGURE = 150, 60
_BAR, _STEP, _HEAD = 14, 20, 26
_COLORS = {OURS: "#1f6feb", RAW: "#57606a"}
_OTHERS = "#b6bec8"


def as_svg(compared: Sequence[Compared], condition: str) -> str:
    """Return a chart of jobs a second; each panel has a scale of its own.

    Args:
        compared: What was measured.
        condition: Which condition's figures are drawn.
    """
    drawn: list[str] = []
    column_width = (_WIDTH - 2 * _MARGIN - _GAP) / 2
    heights = []
    for column, database in enumerate(("sqlite", "postgresql")):
        left, top = _MARGIN + column * (column_width + _GAP), _MARGIN
        drawn.append(_text(left, top + 14, _title(database), weight="bold"))
        top += _HEAD
        for phase in PHASES:
            bars = [
                each
                for each in compared
                if (each.database, each.condition, each.phase) == (database, condition, phase)
                and each.per_second
            ]
            drawn += _panel(bars, PHASE_NAMES[phase], left, top, column_width)
            top += _HEAD + len(bars) * _STEP + _GAP / 2
        heights.append(top)
    height = max(heights) + _MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
            f'width="{_WIDTH}" height="{height:.0f}" font-family="sans-serif" font-size="12">',
            "<title>Jobs a second, CL Server beside the bare driver and other queues</title>",
            f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#ffffff"/>',
            *drawn,
            "</svg>",
            "",
        ]
    )


def _panel(bars: Sequence[Compared], name: str, left: float, top: float, width: float) -> list[str]:
    drawn = [_text(left, top + 14, f"{name}, jobs a second", color="#24292f")]
    longest = max((bar.median_per_second for bar in bars), default=1)
    space = width - _LABEL - _FIGURE
    for number, bar in enumerate(bars):
        y = top + _HEAD - 4 + number * _STEP
        length = max(1.0, space * bar.median_per_second / longest)
        color = _COLORS.get(bar.side, _OTHERS)
        drawn += [
            _text(left, y + 11, bar.side),
            f'<rect x="{left + _LABEL:.0f}" y="{y:.0f}" width="{length:.1f}" height="{_BAR}" '
            f'fill="{color}"/>',
            _text(left + _LABEL + length + 5, y + 11, f"{bar.median_per_second:,.0f}"),
        ]
    return drawn


def _title(database: str) -> str:
    return "SQLite, synchronous=NORMAL" if database == "sqlite" else "PostgreSQL"


def _text(x: float, y: float, text: str, *, weight: str = "normal", color: str = "#444c56") -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-weight="{weight}" fill="{color}">{escape(text)}</text>'
    )
