"""A suite's figures: their numbers, and the files beside the report."""

import dataclasses
import functools
import json
import pathlib
import re
import xml.etree.ElementTree as ElementTree

import matplotlib.figure
import numpy as np
import pytest
import synthetic_data
from sklearn.metrics import average_precision_score

from psl_jax.reporting import figures, result_figures, result_tables, suite_page
from psl_jax.runtime.errors import DamagedFileError
from psl_jax.scoring import evaluation, metrics

NASTY = "Bow-wow, $x$ <b>"


def plotted(figure: figures.Figure):
    """matplotlib's axes with what the figure draws on them."""
    axes = matplotlib.figure.Figure().subplots()
    figure.plot(axes)
    return axes


def test_figures_2_and_3_are_shares_of_the_clips():
    """Of eight clips; the coverages of those with weak labels are 0, ¼, ⅓, ½, ¾, ⅘ and 1."""
    soft, weak, both = [0, 1, 1, 2, 3, 4, 2, 0], [2, 4, 3, 2, 4, 5, 2, 0], [0, 1, 1, 1, 3, 4, 2, 0]
    statistics = metrics.summarize_labels(np.array([soft, weak, both]))
    quality = json.loads(json.dumps({"statistics": statistics}))
    per_clip, coverage = result_figures.make_label_figures({"psl1s": quality})
    axes = plotted(per_clip)
    assert [text.get_text() for text in axes.get_xticklabels()] == list("012345")
    assert {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers} == {
        "weak": [12.5, 0, 37.5, 12.5, 25, 12.5],
        "psl1s": [25, 25, 25, 12.5, 12.5, 0],
    }
    assert "Clips without a label: weak 12.5 %, psl1s 25.0 %." in per_clip.note
    (bars,) = plotted(coverage).containers
    shares = [bar.get_height() / 100 for bar in bars]
    assert shares == pytest.approx(np.array([1, 1, 2, 1, 1, 1]) / 7)
    assert "7 clips that have weak labels" in coverage.note


# --- A suite --------------------------------------------------------------------------------------


@pytest.fixture
def suite(tmp_path):
    """(folder, results) of a suite of two seeds whose runs are evaluated."""
    rng = np.random.default_rng(0)
    weak = [np.flatnonzero(rng.random(4) < 0.4).tolist() for _ in range(60)]
    weak = [[label for label in own if label != 3] for own in weak]
    index = synthetic_data.make_index([60], 16_000, weak, 4)
    index = dataclasses.replace(index, classes=(NASTY, "b", "c", "never"))
    truth, experiments = index.weak_labels(), []
    for name, noise in (("weak", 1.5), ("psl2s", 0.5)):
        dirs = [f"seed{seed}/{name}" for seed in (0, 1)]
        for folder in dirs:
            scores = 1 / (1 + np.exp(-(truth - 0.5 + noise * rng.normal(size=truth.shape))))
            found = evaluation.write_results(tmp_path / folder, index, scores, {})
        label = "soft" if "psl" in name else "weak"
        experiments.append({"name": name, "run_dirs": dirs, "label": label} | found)
    return tmp_path, {"experiments": experiments, "seeds": [0, 1]}


def test_damaged_scores_are_named(tmp_path):
    (tmp_path / evaluation.SCORES).write_bytes(b"PK")
    with pytest.raises(DamagedFileError, match=r"is damaged .*: evaluate again"):
        evaluation.read_scores(tmp_path)


def test_classes_of_all_experiments_side_by_side(suite):
    folder, results = suite
    runs = {e["name"]: [folder / d for d in e["run_dirs"]] for e in results["experiments"]}
    table = result_tables.make_class_table(runs, "psl2s", "weak")
    kept = {n: [evaluation.read_scores(d) for d in dirs] for n, dirs in runs.items()}
    for row in table:
        c = kept["weak"][0]["classes"].tolist().index(row.name)
        positives = kept["weak"][0]["targets"][:, c].sum()
        assert row.positives == positives
        if not positives:
            assert row.gain is None and set(row.ap.values()) == {None}
            continue
        ap = {
            n: np.mean(
                [average_precision_score(k["targets"][:, c], k["scores"][:, c]) for k in each]
            )
            for n, each in kept.items()
        }
        assert row.ap == pytest.approx(ap) and row.gain == pytest.approx(ap["psl2s"] - ap["weak"])
    gains = [row.gain for row in table if row.gain is not None]
    assert gains == sorted(gains, reverse=True)
    assert result_tables.make_class_table({"x": [folder / "nothing"]}, "x", "weak") == []


def test_a_suite_leaves_a_png_of_each_figure(suite):
    folder, results = suite
    html = suite_page.write(folder, results).read_text()
    assert [p.name for p in (folder / "figures").iterdir()] == ["mean_average_precision.png"]
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in (folder / "figures").glob("*.png"))
    assert "Bow-wow, $x$ &lt;b&gt;" in html and NASTY not in html


def test_curves_of_all_runs_together():
    logs = {
        "weak": [{"step": s, "loss": 1 / s, "val_mAP": s / 100} for s in range(1, 50)],
        "psl2s": [{"step": s, "loss": 2 / s} for s in range(1, 50)],
        "none": [],
    }
    validation, loss = result_figures.make_curve_figures(logs, " Of seed 4.")
    assert len(plotted(validation).lines) == 1
    axes = plotted(loss)
    assert [line.get_label() for line in axes.lines] == ["weak", "psl2s"]
    assert axes.get_title() == "loss (logarithmic)"
    assert loss.note.endswith(" Of seed 4.")
    assert result_figures.make_curve_figures({"none": []}) == []


# --- Drawing --------------------------------------------------------------------------------------


def texts(figure: figures.Figure) -> list[str]:
    """The texts of a figure, whose ids differ and whose colours are the page's."""
    root = ElementTree.fromstring(str(figure.svg))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert "#" not in "".join(e.get("style", "") for e in root.iter()).replace("url(#", "")
    return [text.text for text in root.iter("text")]


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("points", [[(0, 1.0)], [(0, 1.0), (5, 1.0)], [(1, 1e-7), (2, 5e4)], []])
def test_lines_of_few_points_and_of_extreme_ones(points, log_y):
    series = [figures.Series(NASTY, points, marks=points[:1]), figures.Series("other", points, 1)]
    named = {"x_label": "x", "y_label": "$y$", "log_y": log_y}
    plot = functools.partial(figures.draw_lines, series=series, **named)
    figure = figures.Figure("f", NASTY, "", plot)
    assert {"x", "$y$", NASTY, "other"} <= set(texts(figure))


def test_bars_of_zeros_of_long_names_and_of_none():
    bars = [
        figures.Bar("x" * 80, 0.0),
        figures.Bar(NASTY, None),
        figures.Bar("z", 0.2, 3, reference=0.1),
    ]
    plot = functools.partial(figures.draw_bars, bars=bars, x_label="x")
    figure = figures.Figure("f", "t", "", plot)
    named = {"x" * 33 + "…", NASTY, "z", "0.00", "not scored", "0.20", "paper"}
    assert named <= set(texts(figure))
    series = [("a", [0.0, 0.0], 0)]
    plot = functools.partial(
        figures.draw_columns, categories="pq", series=series, x_label="x", y_label="y"
    )
    assert {"p", "q"} <= set(texts(figures.Figure("f", "t", "", plot)))


def test_number():
    texts = {0.05: "0.05", 800: "800", 15e3: "15k", 2e6: "2M", 8e-5: "8e-5"}
    assert {value: figures.format_number(value) for value in texts} == texts


def test_figures_have_the_colours_of_the_page():
    """In the SVG they are its variables, and they stand out from white and from the dark page."""
    style = pathlib.Path(figures.__file__).with_name("templates") / "report.css"
    light, _, dark = style.read_text().partition("@media (prefers-color-scheme: dark)")
    schemes = [dict(re.findall(r"--([\w-]+): (#\w+);", css)) for css in (light, dark)]
    assert {name: schemes[0][name] for name in figures.VARIABLES.values()} == {
        name: colour for colour, name in figures.VARIABLES.items()
    }

    def luminance(colour: str) -> float:
        rgb = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
        linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722] + 0.05

    for scheme in schemes:
        page = luminance(scheme["page"])
        for name in ("ink", "soft", *(f"c{k}" for k in range(6))):
            other = luminance(scheme[name])
            assert max(page, other) / min(page, other) > 3, name  # WCAG 2 asks so of figures


def test_lines_of_many_experiments_differ_in_colour_or_in_style():
    names = [f"student {i}" for i in range(16)]
    numbers = result_figures.choose_colours(["teacher", "weak", *names]).values()
    looks = [(figures.colour_of(number), figures.line_style_of(number)) for number in numbers]
    assert len(set(looks)) == len(looks)
