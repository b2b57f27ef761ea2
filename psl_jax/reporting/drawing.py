"""Charts as inline SVG: no dependency, a few kilobytes each, and light or dark with the page.

Colours and fonts come from the page's style sheet (classes `c0` to `c5`, `grid`, `tick`, …), so
the same drawing serves both colour schemes. Where several lines share a chart they differ in
their dashes as well as in colour.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 480, 300
NUM_COLOURS = 6
DASHES = ("", "9 4", "5 3", "10 3 2 3", "2 3", "1 4")

_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 14, 28, 44
_CHAR = 6.9  # width of a character at the font size of the labels, about

Format = Callable[[float], str]


def dashes(colour: int) -> str:
    """The dashes of a number; from NUM_COLOURS on colours come again, with other dashes."""
    return DASHES[(colour + colour // NUM_COLOURS) % NUM_COLOURS]


@dataclasses.dataclass(frozen=True)
class Series:
    """A line through `points` (x, y); `marks` are drawn as diamonds, `faint` as background.

    `dashed` gives the line the dashes that belong to its colour.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    marks: Sequence[tuple[float, float]] = ()
    faint: bool = False
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Bar:
    """A horizontal bar; `reference` is a value marked with a diamond (say, the paper's)."""

    name: str
    value: float | None
    colour: int = 0
    reference: float | None = None


@dataclasses.dataclass(frozen=True)
class DotSeries:
    """A dot, or with `filled` false a circle, in each row that has a value."""

    name: str
    values: Sequence[float | None]
    colour: int = 0
    filled: bool = True


# --- Charts ---------------------------------------------------------------------------------


def line_chart(
    series: Sequence[Series], *, label: str, x_label: str, y_label: str, log_y: bool = False
) -> Markup:
    """Lines over a common x axis. `label` is what a screen reader says."""
    points = [p for s in series for p in s.points]
    axes = _Axes(_span(p[0] for p in points), _span((p[1] for p in points), log_y), log_y=log_y)
    parts = [axes.draw(x_label, y_label)]
    for s in series:
        path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in s.points)
        dash = (dashes(s.colour) or None) if s.dashed else None
        kind = "line faint" if s.faint else "line"
        parts.append(_tag("polyline", kind, s.colour, points=path, stroke_dasharray=dash))
        if not s.faint and len(s.points) <= 100:  # each value can be read by pointing at it
            shown = "dot" if len(s.points) <= 12 else "dot hidden"
            parts += [axes.dot(s, x, y, 3.0, shown) for x, y in s.points]
    parts += [axes.diamond(s, x, y) for s in series for x, y in s.marks]
    return _svg(parts, label)


def scatter(
    points: Sequence[tuple[float, float, str]],
    *,
    label: str,
    x_label: str,
    y_label: str,
) -> Markup:
    """Points (x, y, name) with a logarithmic x axis and y from 0 to 100."""
    axes = _Axes(_span((p[0] for p in points), True), (0.0, 100.0), log_x=True)
    parts = [axes.draw(x_label, y_label)]
    parts += [axes.dot(Series(name, ()), x, y, 3.4, "dot soft") for x, y, name in points]
    return _svg(parts, label)


def bar_chart(bars: Sequence[Bar], *, label: str, x_label: str, form: Format) -> Markup:
    """Horizontal bars from zero with their values written beside them."""
    left = min(24 + _CHAR * max(len(b.name) for b in bars), WIDTH * 0.36)
    top, pitch = 10, min(max((HEIGHT - 50) / len(bars), 34), 50)
    height = top + pitch * len(bars) + 40
    values = [v for b in bars for v in (b.value, b.reference) if v is not None]
    right = WIDTH - 12 - _CHAR * max([len(form(v)) for v in values], default=0)
    ticks = _ticks(0.0, max([*values, 1e-9]), 5)
    scale = (right - left) / max(ticks[-1], *values, 1e-9)
    parts = []
    for tick in ticks:
        x = left + tick * scale
        parts.append(_line("grid", x, top, x, height - 40))
        parts.append(_text(x, height - 24, number(tick), "tick", "middle"))
    for row, bar in enumerate(bars):
        middle = top + pitch * (row + 0.5)
        name = bar.name if len(bar.name) * _CHAR < left - 8 else _shorten(bar.name, left - 8)
        parts.append(_text(left - 8, middle + 4, name, "name", "end", title=bar.name))
        if bar.value is None:
            parts.append(_text(left + 6, middle + 4, "not scored", "tick", "start"))
            continue
        tip, end = f"{bar.name}: {form(bar.value)}", left + bar.value * scale
        size = {"x": left, "y": middle - 10, "width": max(end - left, 1), "height": 20, "rx": 2}
        parts.append(_tag("rect", "bar", bar.colour, tip, **size))
        place, kind, anchor = end + 6, "value", "start"
        if bar.reference is not None:
            mark = left + bar.reference * scale
            parts.append(_diamond(mark, middle, "reference", 0, f"paper: {form(bar.reference)}"))
            if end - 6 < mark < end + 56:  # the value would seem to belong to the diamond
                inside = end - left > 64
                place = min(end, mark - 6) - 6 if inside else mark + 12
                kind, anchor = ("inside", "end") if inside else ("value", "start")
        parts.append(_text(place, middle + 4, form(bar.value), kind, anchor))
    parts.append(_text((left + right) / 2, height - 6, x_label, "axis", "middle"))
    return _svg(parts, label, height)


def grouped_bars(
    categories: Sequence[str],
    series: Sequence[tuple[str, Sequence[float], int]],
    *,
    label: str,
    x_label: str,
    y_label: str,
    form: Format,
    show_values: bool = False,
) -> Markup:
    """Vertical bars from zero: for each category one of each series (name, values, colour)."""
    top = max([v for _, values, _ in series for v in values], default=0.0)
    axes = _Axes(None, (0.0, max(top, 1e-9)))
    parts = [axes.draw(x_label, y_label)]
    slot = (WIDTH - _LEFT - _RIGHT) / len(categories)
    width = min(slot * 0.8 / len(series), 46)
    for place, category in enumerate(categories):
        centre = _LEFT + slot * (place + 0.5)
        parts.append(_text(centre, HEIGHT - _BOTTOM + 17, category, "tick", "middle"))
        for k, (name, values, colour) in enumerate(series):
            x = centre + (k - len(series) / 2) * width
            y, bottom = axes.y(values[place]), axes.y(0.0)
            tip = f"{name}, {category}: {form(values[place])}"
            size = {"x": x + 0.5, "y": y, "width": max(width - 1, 1), "height": bottom - y}
            parts.append(_tag("rect", "bar", colour, tip, **size))
            if show_values:
                text = form(values[place])
                parts.append(_text(x + width / 2, y - 5, text, "value", "middle"))
    return _svg(parts, label)


def dot_rows(
    names: Sequence[str], series: Sequence[DotSeries], *, label: str, x_label: str, form: Format
) -> Markup:
    """A row for each name with the dots of all series; those of a single one hang on the zero."""
    left = min(16 + _CHAR * max([len(name) for name in names], default=0), WIDTH * 0.36)
    right, top, pitch = WIDTH - 16, 8, 21
    bottom = top + pitch * len(names)
    values = [v for s in series for v in s.values if v is not None]
    low, high = min([0.0, *values]), max([0.0, *values])
    ticks = _ticks(low, high if high > low else low + 1, 5)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def place(value: float) -> float:
        return left + (value - low) / ((high - low) or 1) * (right - left)

    parts = []
    for tick in ticks:
        parts.append(_line("grid" if tick else "axisline", place(tick), top, place(tick), bottom))
        parts.append(_text(place(tick), bottom + 17, number(tick), "tick", "middle"))
    for row, name in enumerate(names):
        middle = top + pitch * (row + 0.5)
        short = name if len(name) * _CHAR < left - 8 else _shorten(name, left - 8)
        parts.append(_line("grid", left, middle, right, middle))
        parts.append(_text(left - 8, middle + 4, short, "name", "end", title=name))
        for s in series:
            value = s.values[row]
            if value is None:
                continue
            x, tip = place(value), f"{name}, {s.name}: {form(value)}"
            if len(series) == 1:
                points = f"{place(0.0):.1f},{middle:.1f} {x:.1f},{middle:.1f}"
                parts.append(_tag("polyline", "line", s.colour, points=points))
            kind = "dot" if s.filled else "mark"
            parts.append(_tag("circle", kind, s.colour, tip, cx=x, cy=middle, r=5.0))
    parts.append(_text((left + right) / 2, bottom + 36, x_label, "axis", "middle"))
    return _svg(parts, label, bottom + 44)


def legend(entries: Iterable[tuple[str, int, str]]) -> Markup:
    """A list of (name, colour, kind).

    Kinds are line, dashed, faint, bar, dot, circle, diamond and reference.
    """
    items = []
    for name, colour, kind in entries:
        start, width = 7, 14
        if kind in ("line", "dashed", "faint"):
            dash = (dashes(colour) or None) if kind == "dashed" else None
            look = "line faint" if kind == "faint" else "line"
            mark = _tag("polyline", look, colour, points="1,6 31,6", stroke_dasharray=dash)
            start, width = 0, 32
        elif kind == "bar":
            mark = _tag("rect", "bar", colour, x=9, y=1, width=11, height=11, rx=2)
        elif kind in ("dot", "circle"):
            mark = _tag("circle", "dot" if kind == "dot" else "mark", colour, cx=14, cy=6.5, r=5.0)
        else:
            mark = _diamond(14, 6.5, "mark" if kind == "diamond" else kind, colour)
        svg = Markup(
            '<svg viewBox="{0} 0 {1} 13" width="{1}" height="13" aria-hidden="true">{2}</svg>'
        ).format(start, width, mark)
        items.append(Markup("<li>{}{}</li>").format(svg, name))
    return Markup('<ul class="legend">{}</ul>').format(Markup().join(items))


# --- Axes -----------------------------------------------------------------------------------


class _Axes:
    """Maps values to the plotting area; without an x range only the y axis is drawn."""

    def __init__(self, x_range, y_range, *, log_x: bool = False, log_y: bool = False) -> None:
        self._x_ticks = [] if x_range is None else _axis_ticks(x_range, 6, log_x)
        self._y_ticks = _axis_ticks(y_range, 6, log_y)
        self._log_x, self._log_y = log_x, log_y
        x_range = x_range or (0.0, 1.0)
        self._x_range = (min([x_range[0], *self._x_ticks]), x_range[1])
        self._y_range = (min(y_range[0], self._y_ticks[0]), max(y_range[1], self._y_ticks[-1]))

    def x(self, value: float) -> float:
        return _LEFT + _place(value, self._x_range, self._log_x) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = _place(value, self._y_range, self._log_y)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    def draw(self, x_label: str, y_label: str) -> Markup:
        bottom = HEIGHT - _BOTTOM
        parts = []
        for tick in self._y_ticks:
            y = self.y(tick)
            parts.append(_line("grid", _LEFT, y, WIDTH - _RIGHT, y))
            parts.append(_text(_LEFT - 7, y + 4, number(tick), "tick", "end"))
        for tick in self._x_ticks:
            x = self.x(tick)
            parts.append(_line("axisline", x, bottom, x, bottom + 4))
            parts.append(_text(x, bottom + 17, number(tick), "tick", "middle"))
        parts.append(_line("axisline", _LEFT, bottom, WIDTH - _RIGHT, bottom))
        parts.append(_text((WIDTH + _LEFT) / 2, HEIGHT - 7, x_label, "axis", "middle"))
        parts.append(_text(6, 14, y_label, "axis", "start"))
        return Markup().join(parts)

    def dot(self, series: Series, x: float, y: float, radius: float, kind: str = "dot") -> Markup:
        tip = f"{series.name}: {number(y)} at {number(x)}"
        return _tag("circle", kind, series.colour, tip, cx=self.x(x), cy=self.y(y), r=radius)

    def diamond(self, series: Series, x: float, y: float) -> Markup:
        tip = f"{series.name}: {number(y)} at step {x:,.0f}"
        return _diamond(self.x(x), self.y(y), "mark", series.colour, tip)


def _span(values: Iterable[float], log: bool = False) -> tuple[float, float]:
    values = [v for v in values if not log or v > 0]
    low, high = min(values, default=1.0), max(values, default=1.0)
    if low == high:
        return (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    return low, high


def _place(value: float, span: tuple[float, float], log: bool) -> float:
    if log:
        value, span = math.log(max(value, span[0])), (math.log(span[0]), math.log(span[1]))
    return (value - span[0]) / (span[1] - span[0])


def _axis_ticks(span: tuple[float, float], count: int, log: bool) -> list[float]:
    return _log_ticks(*span) if log else _ticks(*span, count)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from at most `low` to within a step of `high`."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 3 else (1,)
    ticks = [m * 10.0**p for p in powers for m in factors]
    inside = [t for t in ticks if low * 0.999 <= t <= high * 1.001]
    return inside if len(inside) > 1 else [low, high]


def number(value: float) -> str:
    """Short and readable: 0.05, 12.5, 800, 10k, 1.5M."""
    for limit, suffix in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e6 if suffix == 'M' else 1e3):.4g}{suffix}"
    return f"{value:.4g}".replace("e-0", "e-")


# --- SVG ------------------------------------------------------------------------------------


def _svg(parts: Iterable[Markup], label: str, height: float = HEIGHT) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, f"{height:g}", label, Markup().join(parts))


def _tag(name: str, kind: str, colour: int, tip: str = "", **attributes) -> Markup:
    text = Markup().join(
        Markup(' {}="{}"').format(
            key.replace("_", "-"), f"{value:.1f}" if isinstance(value, float) else value
        )
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("<title>{}</title>").format(tip) if tip else ""
    return Markup('<{0} class="{1} c{2}"{3}>{4}</{0}>').format(
        name, kind, colour % NUM_COLOURS, text, inner
    )


def _diamond(x: float, y: float, kind: str, colour: int, tip: str = "") -> Markup:
    r = 5.5
    points = f"{x:.1f},{y - r:.1f} {x + r:.1f},{y:.1f} {x:.1f},{y + r:.1f} {x - r:.1f},{y:.1f}"
    return _tag("polygon", kind, colour, tip, points=points)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        kind, x1, y1, x2, y2
    )


def _text(x: float, y: float, text: str, kind: str, anchor: str, title: str = "") -> Markup:
    tip = Markup("<title>{}</title>").format(title) if title and title != text else ""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}{}</text>').format(
        kind, x, y, anchor, tip, escape(text)
    )


def _shorten(name: str, width: float) -> str:
    return name[: max(int(width / _CHAR) - 1, 1)] + "…"
