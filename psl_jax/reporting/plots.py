"""A figure as what it shows, once: its SVG for the page, its picture and its CSV are made of it.

`drawing` makes the SVG, `pictures` the PNG.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from psl_jax.reporting import drawing
from psl_jax.reporting.drawing import Bar, DotSeries, Format, Series

Row = Sequence[Any]


@dataclasses.dataclass(frozen=True)
class Lines:
    """Lines over a common x axis."""

    series: Sequence[Series]
    x_label: str
    y_label: str
    log_y: bool = False

    def svg(self, label: str) -> Markup:
        return drawing.line_chart(
            self.series, label=label, x_label=self.x_label, y_label=self.y_label, log_y=self.log_y
        )

    def legend(self) -> list[tuple[str, int, str]]:
        return [(s.name, s.colour, "faint" if s.faint else "dashed") for s in self.series]

    def rows(self) -> Iterator[Row]:
        yield "series", self.x_label, self.y_label
        for series in self.series:
            for x, y in series.points:
                yield series.name, x, y


@dataclasses.dataclass(frozen=True)
class Columns:
    """Vertical bars: for each category one of each series (name, values, colour)."""

    categories: Sequence[str]
    series: Sequence[tuple[str, Sequence[float], int]]
    x_label: str
    y_label: str
    form: Format
    show_values: bool = False

    def svg(self, label: str) -> Markup:
        return drawing.grouped_bars(
            self.categories,
            self.series,
            label=label,
            x_label=self.x_label,
            y_label=self.y_label,
            form=self.form,
            show_values=self.show_values,
        )

    def legend(self) -> list[tuple[str, int, str]]:
        return [(name, colour, "bar") for name, _, colour in self.series]

    def rows(self) -> Iterator[Row]:
        yield self.x_label, *(f"{name}: {self.y_label}" for name, _, _ in self.series)
        yield from zip(self.categories, *(values for _, values, _ in self.series), strict=True)


@dataclasses.dataclass(frozen=True)
class Bars:
    """Horizontal bars with their values, the paper's marked where they are known."""

    bars: Sequence[Bar]
    x_label: str
    form: Format

    def svg(self, label: str) -> Markup:
        return drawing.bar_chart(self.bars, label=label, x_label=self.x_label, form=self.form)

    def legend(self) -> list[tuple[str, int, str]]:
        marked = any(bar.reference is not None for bar in self.bars)
        return [("paper", 0, "reference")] if marked else []

    def rows(self) -> Iterator[Row]:
        yield "experiment", self.x_label, f"paper: {self.x_label}"
        for bar in self.bars:
            yield bar.name, bar.value, bar.reference


@dataclasses.dataclass(frozen=True)
class Dots:
    """A row for each name, with a dot of each series; of many the first and the last are drawn."""

    names: Sequence[str]
    series: Sequence[DotSeries]
    x_label: str
    form: Format

    MOST = 30  # rows that are drawn

    def drawn(self) -> "Dots":
        """The rows that are drawn."""
        half = self.MOST // 2
        if len(self.names) <= self.MOST:
            return self
        series = [
            dataclasses.replace(s, values=[*s.values[:half], *s.values[-half:]])
            for s in self.series
        ]
        return dataclasses.replace(
            self, names=[*self.names[:half], *self.names[-half:]], series=series
        )

    def svg(self, label: str) -> Markup:
        drawn = self.drawn()
        return drawing.dot_rows(
            drawn.names, drawn.series, label=label, x_label=self.x_label, form=self.form
        )

    def legend(self) -> list[tuple[str, int, str]]:
        if len(self.series) == 1:
            return []
        return [(s.name, s.colour, "dot" if s.filled else "circle") for s in self.series]

    def rows(self) -> Iterator[Row]:
        yield "name", *(f"{s.name}: {self.x_label}" for s in self.series)
        yield from zip(self.names, *(s.values for s in self.series), strict=True)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a report.

    Attributes:
      name: of its files, without ending.
      title: above it.
      note: what to know to read it.
      plot: what it shows.
    """

    name: str
    title: str
    note: str
    plot: Lines | Columns | Bars | Dots

    @property
    def is_tall(self) -> bool:
        """Whether it leaves a hole beside it, unless it comes after the others."""
        return isinstance(self.plot, Dots)

    @property
    def svg(self) -> Markup:
        return self.plot.svg(self.title)

    @property
    def legend(self) -> Markup:
        entries = self.plot.legend()
        return drawing.legend(entries) if entries else Markup()
