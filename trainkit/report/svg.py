"""Curves as SVG: sharp on a phone and on paper, coloured by the page's style, and nothing to load."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 400, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 10, 26  # of the frame, for the numbers
MOST = 400  # points of a curve: more than a screen has room for only makes the page large
TICKS = 4

Point = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """`curves`: one per run, which has its colour by its place, so a run without points has an empty one. `marks`:
    where on the x axis something began, and what."""

    title: str
    x: str
    curves: Sequence[Sequence[Point]]
    marks: Sequence[tuple[float, str]] = field(default=())
    zero: bool = False

    def draw(self) -> str:
        """The chart as a <figure>; nothing where there is nothing to see."""
        curves = [[p for p in curve if math.isfinite(p[1])] for curve in self.curves]
        points = [point for curve in curves for point in curve]
        if not points:
            return ""
        xs = span([x for x, _ in points])
        ys = span([y for _, y in points] + ([0.0] if self.zero else []))
        across, up = scale(xs, LEFT, WIDTH - RIGHT), scale(ys, HEIGHT - BOTTOM, TOP)
        parts = [
            *(_grid(y, up(y)) for y in ticks(ys)),
            *(_number(across(x), short(x)) for x in ticks(xs)),
            *(_mark(across(x), what) for x, what in self.marks if xs[0] <= x <= xs[1]),
            *(_curve(thin(curve), across, up, number) for number, curve in enumerate(curves)),
        ]
        last = " · ".join(f'<b class="r{n}">{short(c[-1][1])}</b>' for n, c in enumerate(curves) if c)
        caption = f"<figcaption>{escape(self.title)} <small>by {escape(self.x)}; at the end {last}</small></figcaption>"
        label = f'role="img" aria-label="{escape(self.title, quote=True)}"'
        return f'<figure>{caption}<svg viewBox="0 0 {WIDTH} {HEIGHT}" {label}>{"".join(parts)}</svg></figure>'


def span(values: Sequence[float]) -> Point:
    """From the least to the greatest; never empty."""
    low, high = min(values), max(values)
    room = abs(low) * 0.01 or 1.0
    return (low, high) if high > low else (low - room, high + room)


def scale(values: Point, begin: float, end: float) -> Callable[[float], float]:
    """From a value to a place in the picture."""
    return lambda value: begin + (value - values[0]) / (values[1] - values[0]) * (end - begin)


def ticks(values: Point) -> list[float]:
    """Round numbers between two values."""
    low, high = values
    rough = (high - low) / TICKS
    power: float = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def short(value: float) -> str:
    """For an axis: 12300 -> 12.3k."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.2g}"


def thin(curve: Sequence[Point]) -> Sequence[Point]:
    """As many points as can be seen. Of each stretch its least and its greatest stay: a spike is what one looks for."""
    if len(curve) <= MOST:
        return curve
    kept: list[Point] = []
    pieces = MOST // 2
    for number in range(pieces):
        piece = curve[number * len(curve) // pieces : (number + 1) * len(curve) // pieces]
        kept += sorted({min(piece, key=lambda p: p[1]), max(piece, key=lambda p: p[1])})
    return [curve[0], *kept, curve[-1]]


def _grid(value: float, y: float) -> str:
    line = f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
    return f'{line}<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>'


def _number(x: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{text}</text>'


def _mark(x: float, what: str) -> str:
    line = f'<path class="mark" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
    return f"<g><title>{escape(what)}</title>{line}</g>"


def _curve(curve: Sequence[Point], across: Callable[[float], float], up: Callable[[float], float], run: int) -> str:
    if len(curve) == 1:
        return f'<circle class="r{run}" cx="{across(curve[0][0]):.1f}" cy="{up(curve[0][1]):.1f}" r="2.5"/>'
    return f'<path class="r{run}" d="M{"L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in curve)}"/>' if curve else ""
