"""Charts as SVG."""

import xml.etree.ElementTree as ElementTree

import pytest

from psl_jax.reporting import charts, drawing

NASTY = 'Bow-wow, "loud" <script>alert(1)</script> & co'


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize(
    "points", [[(0, 1.0)], [(0, 1.0), (5, 1.0)], [(1, 1e-7), (2, 5e4)], [(1, -1.0), (2, 3.0)], []]
)
def test_line_chart_stays_inside_its_frame(points, log_y):
    series = drawing.Series(NASTY, points, marks=points[:1])
    svg = drawing.line_chart([series], label=NASTY, x_label="x", y_label="y", log_y=log_y)
    root = ElementTree.fromstring(str(svg))
    for pair in root.find("polyline").get("points").split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= drawing.WIDTH
        assert 0 <= y <= drawing.HEIGHT


@pytest.mark.parametrize(
    ("value", "text"), [(0.05, "0.05"), (800, "800"), (15e3, "15k"), (2e6, "2M"), (8e-5, "8e-5")]
)
def test_number(value, text):
    assert drawing.number(value) == text


def test_bars_of_zeros_and_of_long_names():
    bars = [
        drawing.Bar("x" * 80, 0.0),
        drawing.Bar("y", None),
        drawing.Bar("z", 0.0, reference=0.1),
    ]
    svg = drawing.bar_chart(bars, label="l", x_label="x", form=str)
    names = ElementTree.fromstring(str(svg)).findall("text[@class='name']")
    assert all(len(name.text or "") < 40 or name.find("title") is not None for name in names)
    series = [("a", [0.0, 0.0], 0)]
    kwargs = {"label": "l", "x_label": "x", "y_label": "y", "form": str}
    ElementTree.fromstring(str(drawing.grouped_bars(["p", "q"], series, **kwargs)))


def test_lines_of_many_experiments_differ_in_colour_or_in_dashes():
    names = [f"student {i}" for i in range(20)]
    found = charts.colours(["teacher", "weak", *names])
    looks = [(found[n] % drawing.NUM_COLOURS, drawing.dashes(found[n])) for n in found]
    assert len(set(looks)) == len(looks)
    assert looks[2:6] == [(0, ""), (2, "5 3"), (3, "10 3 2 3"), (4, "2 3")]
