"""The figures of soft labels: agreement with the truth, how many there are, what they cover."""

from collections.abc import Mapping, Sequence
from typing import Any

from psl_jax.reporting import figures
from psl_jax.reporting.figures import Caption, DotSeries, Figure
from psl_jax.reporting.run_figures import colours

_MAX_LABELS = 9  # clips with more labels are counted together
_WEAK = 1  # their colour


def label_quality(qualities: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """Of {name: label quality}: against the true events where these are known, Figures 2 and 3."""
    drawn = []
    measured = {n: q for n, q in qualities.items() if q.get("segment_mAP")}
    if measured:
        drawn.append(_segment_map(measured))
    statistics = {n: q["statistics"] for n, q in qualities.items() if q.get("statistics")}
    if statistics:
        drawn += [_labels_per_clip(statistics), _coverage(statistics)]
    by_class = {n: q for n, q in qualities.items() if q.get("segment_AP")}
    if by_class:
        drawn.append(_agreement(by_class))
    return drawn


def _names(qualities: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """How each is called: with the length of its segments where there is room."""
    lengths = {name: quality.get("segment_seconds") for name, quality in qualities.items()}
    return {
        name: f"{name} ({length:g} s)" if length and len(lengths) < 5 else name
        for name, length in lengths.items()
    }


def _segment_map(measured: Mapping[str, Mapping[str, Any]]) -> Figure:
    kinds = {"soft": ("soft labels of the teacher", 0), "weak": ("weak labels, propagated", _WEAK)}
    series = [
        (
            text,
            [100 * (q["segment_mAP"].get(label_source) or 0.0) for q in measured.values()],
            colour,
        )
        for label_source, (text, colour) in kinds.items()
    ]
    return figures.columns(
        Caption(
            "labels_against_truth",
            "The labels against the truth",
            "How well the labels themselves agree with the true events, segment by segment.",
        ),
        list(_names(measured).values()),
        series,
        x_label="label set (length of its segments)",
        y_label="mAP (%)",
        form="{:.1f}".format,
        show_values=True,
    )


def _labels_per_clip(statistics: Mapping[str, Mapping[str, Any]]) -> Figure:
    colour = colours(list(statistics))
    first = next(iter(statistics.values()))
    counts = {"weak": first["labels_per_clip"]["weak"]}
    counts |= {name: s["labels_per_clip"]["soft"] for name, s in statistics.items()}
    length = min(max(map(len, counts.values())), _MAX_LABELS + 2)
    shares = {name: _shares(values, length) for name, values in counts.items()}
    categories = [str(k) for k in range(length)]
    if any(len(values) > length for values in counts.values()):
        categories[-1] = f"≥{length - 1}"
    none = ", ".join(f"{name} {values[0]:.1f} %" for name, values in shares.items())
    note = (
        "Figure 2 of the paper. A class counts if any segment of the clip exceeds "
        f"{first['threshold']:g}. Clips without a label: {none}."
    )
    return figures.columns(
        Caption("labels_per_clip", "Labels per clip", note),
        categories,
        [(name, values, colour.get(name, _WEAK)) for name, values in shares.items()],
        x_label="labels a clip",
        y_label="clips (%)",
        form="{:.1f} %".format,
    )


def _shares(values: Sequence[int], length: int) -> list[float]:
    head = [*values[: length - 1], sum(values[length - 1 :])]
    head += [0] * (length - len(head))
    return [100 * v / max(sum(values), 1) for v in head]


def _coverage(statistics: Mapping[str, Mapping[str, Any]]) -> Figure:
    colour = colours(list(statistics))
    some = next(iter(statistics.values()))
    first = some["coverage"]
    series = [
        (name, _shares(s["coverage"]["clips"], len(first["bins"])), colour[name])
        for name, s in statistics.items()
    ]
    note = f"Figure 3 of the paper, over the {first['num_clips']:,.0f} clips that have weak labels."
    return figures.columns(
        Caption("label_coverage", "Label coverage", note),
        first["bins"],
        series,
        x_label="share of a clip's weak labels that the soft ones confirm",
        y_label="clips (%)",
        form="{:.1f} %".format,
    )


def _agreement(qualities: Mapping[str, Mapping[str, Any]]) -> Figure:
    """AP of soft and of propagated weak labels, a row a class, the best on soft labels first."""
    classes = next(iter(qualities.values()))["segment_AP"]["classes"]
    alike = {
        n: q["segment_AP"] for n, q in qualities.items() if q["segment_AP"]["classes"] == classes
    }
    colour, shown = colours(list(alike)), _names(qualities)
    scored_classes = [
        c for c in range(len(classes)) if any(ap["soft"][c] is not None for ap in alike.values())
    ]

    def mean(c: int) -> float:
        values: list[float] = [ap["soft"][c] for ap in alike.values() if ap["soft"][c] is not None]
        return sum(values) / len(values)

    order = sorted(scored_classes, key=lambda c: (-mean(c), classes[c]))
    series = [
        DotSeries(
            f"{shown[name]}, {label_source}",
            _percents(ap[label_source], order),
            colour[name],
            label_source == "soft",
        )
        for name, ap in alike.items()
        for label_source in ("soft", "weak")
    ]
    note = (
        "Segments against the true events, class by class. Dots: soft labels; circles: the clip's "
        "weak labels given to each of its segments."
    )
    return figures.dots(
        Caption("label_agreement", "The labels against the truth, by class", note),
        [classes[c] for c in order],
        series,
        x_label="AP (%)",
        form="{:.1f} %".format,
    )


def _percents(values: Sequence[float | None], order: Sequence[int]) -> list[float | None]:
    return [None if (v := values[c]) is None else 100 * v for c in order]
