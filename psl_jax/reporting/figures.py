"""Figures: matplotlib draws each as SVG for a page and as PNG for a file beside it.

The colours are those of the page by daylight. In the SVG they become the variables of
`templates/report.css`, so that a figure is light or dark with its page.
"""

import dataclasses
import io
import math
import pathlib
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from psl_jax.runtime import files

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: commands start without it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

FOLDER = "figures"
COLOURS = ("#0072b2", "#d55e00", "#008a65", "#b5468b", "#bb8200", "#6d7681")
INK, SOFT, RULE, PAGE = "#16191d", "#59616b", "#dfe3e7", "#ffffff"
VARIABLES = {colour: f"c{number}" for number, colour in enumerate(COLOURS)}
VARIABLES |= {INK: "ink", SOFT: "soft", RULE: "rule", PAGE: "page"}
LINE_STYLES = ("-", "--", ":", "-.")  # where colours come again

_WIDTH = 400  # points, about as wide as a telephone: there its text stays readable
_HEIGHT = 260
_NAME_LENGTH = 34  # characters
# Beside the colours, templates/figures.mplstyle has the style.
_STYLE_COLOURS = {
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "grid.color": RULE,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}


Plot = Callable[["Axes"], None]  # draws on matplotlib's axes: a `draw_...` below with its data


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a page."""

    name: str  # of its file, without ending
    title: str
    note: str  # what to know to read it
    plot: Plot
    height: float = _HEIGHT  # in points, without the legend

    @property
    def svg(self) -> Markup:
        """The figure as an element of a page, without title."""
        with self._use_style():
            image = io.StringIO()
            self._draw().savefig(image, format="svg", metadata={"Date": None})
        return _page_element(image.getvalue(), self.title)

    def save(self, path: pathlib.Path) -> None:
        """Writes the figure with its title as a PNG."""
        with self._use_style(), files.atomic_open(path, "wb") as file:
            canvas = self._draw()
            canvas.suptitle(self.title, x=0.01, ha="left", fontsize=12, fontweight="bold")
            canvas.savefig(file, format="png", dpi=180)

    def _use_style(self) -> Any:
        """The style of all figures, as a context; a figure's SVG is always the same."""
        import matplotlib.style

        path = pathlib.Path(__file__).with_name("templates") / "figures.mplstyle"
        own_settings = _STYLE_COLOURS | {"svg.hashsalt": self.name}
        return matplotlib.style.context([path, own_settings], after_reset=True)

    def _draw(self) -> "Canvas":
        from matplotlib.figure import Figure as Canvas

        canvas = Canvas(figsize=(_WIDTH / 72, self.height / 72))
        axes = canvas.subplots()
        self.plot(axes)
        if labels := axes.get_legend_handles_labels()[1]:
            columns = max(min(len(labels), 64 // (5 + max(map(len, labels)))), 1)
            canvas.set_figheight((self.height + 16 * math.ceil(len(labels) / columns)) / 72)
            canvas.legend(loc="outside lower left", ncols=columns)
        return canvas


# --- Kinds ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Series:
    """A line through `points` (x, y); those of `marks` are drawn as diamonds."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    marks: Sequence[tuple[float, float]] = ()


@dataclasses.dataclass(frozen=True)
class Bar:
    """A horizontal bar; `reference` is marked with a diamond: the paper's value."""

    name: str
    value: float | None
    colour: int = 0
    reference: float | None = None


def draw_lines(
    axes: "Axes", series: Sequence[Series], *, x_label: str, y_label: str, log_y: bool = False
) -> None:
    """Draws lines over a common x axis."""
    for line_series in series:
        colour = colour_of(line_series.colour)
        axes.plot(
            *_columns_of(line_series.points),
            color=colour,
            linestyle=line_style_of(line_series.colour),
            linewidth=1.8,
            label=_short(line_series.name) if len(series) > 1 or line_series.marks else None,
        )
        if len(line_series.points) <= 12:
            _dots(axes, line_series.points, colour)
        if line_series.marks:
            kwargs = {"marker": "D", "markersize": 6.5, "markerfacecolor": PAGE}
            (line,) = _dots(axes, line_series.marks, colour, **kwargs)
            line.set_label(f"best {len(line_series.marks)}")
    if log_y:
        axes.set_yscale("log")
    _frame(axes, x_label, y_label)


def draw_columns(
    axes: "Axes",
    categories: Sequence[str],
    series: Sequence[tuple[str, Sequence[float], int]],
    *,
    x_label: str,
    y_label: str,
) -> None:
    """Draws vertical bars: for each category one of each series (name, values, colour)."""
    width = min(0.8 / len(series), 0.4)
    for k, (name, values, colour) in enumerate(series):
        places = [c + (k - (len(series) - 1) / 2) * width for c in range(len(categories))]
        label = _short(name) if len(series) > 1 else None
        axes.bar(places, values, 0.93 * width, color=colour_of(colour), label=label)
    axes.set_xticks(range(len(categories)), categories)
    _frame(axes, x_label, y_label, categories=True)


def draw_bars(axes: "Axes", bars: Sequence[Bar], *, x_label: str) -> None:
    """Draws horizontal bars, their values at the right, the paper's marked where it is given."""
    for row, bar in enumerate(bars):
        axes.barh(row, bar.value or 0, 0.6, color=colour_of(bar.colour))
    marks = [(bar.reference, row) for row, bar in enumerate(bars) if bar.reference is not None]
    if marks:
        kwargs = {"marker": "D", "markersize": 7, "markerfacecolor": PAGE}
        (line,) = _dots(axes, marks, INK, **kwargs)
        line.set_label("paper")
    values = axes.secondary_yaxis("right")
    texts = ["not scored" if bar.value is None else f"{bar.value:.2f}" for bar in bars]
    values.set_yticks(range(len(bars)), texts)
    values.spines["right"].set_visible(False)
    values.tick_params(labelcolor=INK)
    axes.set_yticks(range(len(bars)), [_short(bar.name) for bar in bars])
    axes.tick_params("y", labelcolor=INK)
    axes.set_ylim(len(bars) - 0.5, -0.5)  # the first one at the top
    _frame(axes, x_label)


def colour_of(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def line_style_of(number: int) -> str:
    return LINE_STYLES[number // len(COLOURS) % len(LINE_STYLES)]


def format_number(value: float) -> str:
    """Formats a number, short and readable: 0.05, 12.5, 800, 10k, 1.5M."""
    for limit, unit, suffix in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / unit:.4g}{suffix}"
    return f"{value:.4g}".replace("e-0", "e-")


# --- matplotlib and SVG ---------------------------------------------------------------------


def _frame(axes: "Axes", x_label: str, y_label: str = "", *, categories: bool = False) -> None:
    """Axis names and short numbers; y_label stands above its axis, to be read without turning."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xlabel(x_label)
    axes.set_title(y_label)
    axes.grid(axis="y" if y_label else "x")
    named = (axes.xaxis if categories else None, None if y_label else axes.yaxis)
    for axis in (axes.xaxis, axes.yaxis):
        if axis in named:
            continue
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
            axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: format_number(value))


def _dots(
    axes: "Axes", points: Sequence[tuple[float, float]], colour: str, **kwargs: Any
) -> list[Any]:
    look: dict[str, Any] = {"marker": "o", "markersize": 4.5, "markeredgewidth": 1.5} | kwargs
    return axes.plot(*_columns_of(points), color=colour, linestyle="none", clip_on=False, **look)


def _columns_of(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"


def _page_element(svg: str, label: str) -> Markup:
    """matplotlib's SVG as an element of an HTML page, in the page's fonts and colours."""
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    root = ElementTree.fromstring(svg)
    for element in root.iter():  # HTML has no namespaces
        element.tag = element.tag.rpartition("}")[2]
        for key in list(element.attrib):
            element.attrib[key.rpartition("}")[2]] = element.attrib.pop(key)
        if colours := element.get("style"):
            element.set("style", re.sub(r"#\w{6}\b", _variable, colours))
        if element.tag == "g":  # ids of groups come again in other figures
            element.attrib.pop("id", None)
    root.attrib = {"class": "chart", "viewBox": root.attrib["viewBox"], "role": "img"}
    root.set("aria-label", label)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _variable(colour: re.Match[str]) -> str:
    variable = VARIABLES.get(colour[0])
    return f"var(--{variable})" if variable else colour[0]
