"""What is drawn is where it belongs, and a spike is never lost."""

from __future__ import annotations

import math
import re

import pytest

from trainkit.report.svg import BOTTOM, HEIGHT, LEFT, MOST, RIGHT, TOP, WIDTH, Chart, short, thin, ticks


def drawn(text: str, run: int = 0) -> list[tuple[float, float]]:
    (path,) = re.findall(rf'<path class="r{run}" d="M([^"]*)"', text)
    return [(float(x), float(y)) for x, y in (point.split() for point in path.split("L"))]


def test_a_curve_fills_the_frame() -> None:
    text = Chart("loss", "step", [[(0, 2.0), (5, 1.5), (10, 1.0)]]).draw()
    assert drawn(text) == [(LEFT, TOP), ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2), (390, 184)]
    assert 'at the end <b class="r0">1</b>' in text


def test_runs_share_the_axes_and_keep_their_colour() -> None:
    text = Chart("loss", "step", [[], [(0, 1.0), (1, 0.0)], [(0, 2.0), (1, 0.0)]]).draw()
    assert 'class="r0"' not in text
    assert drawn(text, 1)[0][1] == (TOP + HEIGHT - BOTTOM) / 2
    assert drawn(text, 2)[0][1] == TOP


def test_what_is_no_number_is_left_out() -> None:
    assert len(drawn(Chart("x", "y", [[(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]]).draw())) == 2
    assert Chart("x", "y", [[(0, math.nan)]]).draw() == Chart("x", "y", []).draw() == ""


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0])
def test_a_flat_curve_is_a_line(value: float) -> None:
    points = drawn(Chart("x", "y", [[(1, value), (2, value)]]).draw())
    assert points[0][1] == points[1][1]
    assert TOP <= points[0][1] <= HEIGHT - BOTTOM


def test_a_long_curve_keeps_its_ends_and_its_spikes() -> None:
    curve = [(float(n), 100.0 if n == 7777 else -50.0 if n == 1234 else math.sin(n)) for n in range(20000)]
    kept = thin(curve)
    assert len(kept) <= MOST + 2
    assert {curve[0], curve[-1], (7777.0, 100.0), (1234.0, -50.0)} <= {*kept}
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


def test_ticks_are_round_and_within() -> None:
    assert ticks((0.0, 60.0)) == [0, 20, 40, 60]
    assert ticks((0.13, 0.91)) == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_short() -> None:
    told = {0: "0", 0.25: "0.25", 12300: "12.3k", 2.5e6: "2.5M", 3e-6: "3e-06"}
    assert {value: short(value) for value in told} == told


def test_a_title_is_text() -> None:
    text = Chart("a<b", 'st"ep', [[(0, 1.0)]], [(0.0, "<x>")]).draw()
    assert "a&lt;b" in text and "&lt;x&gt;" in text and "<x>" not in text
