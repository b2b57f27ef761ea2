"""The page of a suite: table, figures, classes and clips; and the figures as files beside it."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from psl_jax.reporting import audio_examples, figures, result_figures, result_tables, run_page
from psl_jax.reporting.figures import Figure
from psl_jax.runtime.paths import path_of
from psl_jax.training.metric_log import read_log


def write(suite_dir: str | os.PathLike[str], results: Mapping[str, Any]) -> pathlib.Path:
    """Writes `suite_dir/report.html` and `suite_dir/figures/`; returns the page's path.

    `results` is results.json: `experiments`, a list of dicts with at least `name` (mAP and the
    other metrics missing or None if not evaluated; `run_dirs`, by default the name alone, says
    where its runs lie relative to the suite, one for each seed), and optionally `label_quality`
    ({experiment: label quality}), `paper` and `paper_d_prime` ({experiment: value}), `clips`, the
    folder that `listening` wrote, `seeds`, and `reference`, the experiment that the others are held
    against (default weak), from which each has its interval `over_reference`.
    """
    suite_dir = path_of(suite_dir)
    experiments = results.get("experiments", [])
    reference = results.get("reference", "weak")
    runs = {
        e["name"]: [suite_dir / folder for folder in e.get("run_dirs", [e["name"]])]
        for e in experiments
    }
    references = results.get("references") or {}
    best = best_of(experiments, references)
    reference = references.get(best or "", reference)
    classes = result_tables.make_class_table(runs, best, reference)
    seeds = results.get("seeds") or []
    shown = _figures(results, runs)
    clips = audio_examples.read(suite_dir / results.get("clips", audio_examples.FOLDER))
    for figure in (figure for section in shown.values() for figure in section):
        figure.save(suite_dir / figures.FOLDER / f"{figure.name}.png")
    reports = {name: folders[0] / run_page.REPORT_NAME for name, folders in runs.items()}
    links = {
        name: quote(os.path.relpath(report, suite_dir)) if report.exists() else None
        for name, report in reports.items()
    }
    context = {
        "title": str(results.get("name") or suite_dir.resolve().name),
        "tiles": _tiles(experiments, best, reference),
        "table": result_tables.make_suite_table(results),
        "best": best,
        "reference": reference,
        "kind": _kind(experiments),
        "seeds": seeds,
        "folds": results.get("folds") or [],
        "links": links,
        "warning": result_tables.describe_other_clips(experiments, references),
        "notes": result_tables.list_notes(experiments),
        "coverage": next((e for e in experiments if e.get("num_clips") is not None), None),
        "quality_table": result_tables.make_quality_table(results.get("label_quality", {})),
        "classes": classes,
        "clips": clips,
        "clip_ticks": audio_examples.ticks,
        "files": figures.FOLDER,
    }
    return run_page.render("suite.html.jinja", suite_dir / run_page.REPORT_NAME, context | shown)


def _figures(
    results: Mapping[str, Any], runs: Mapping[str, Sequence[pathlib.Path]]
) -> dict[str, list[Figure]]:
    """Those of each section, by their name in the template."""
    seeds, paper = results.get("seeds") or [], results.get("paper") or {}
    paper = {k: v for k, v in paper.items() if result_tables.measure_of(results, k) == "mAP"}
    whose = f" Of seed {seeds[0]}." if len(seeds) > 1 else ""
    logs = {name: read_log(folders[0]) for name, folders in runs.items()}
    return {
        "figures": [
            *result_figures.make_comparison(results.get("experiments", []), paper),
            *result_figures.make_curve_figures(logs, whose),
        ],
        "quality_figures": result_figures.make_label_figures(results.get("label_quality", {})),
    }


def best_of(
    experiments: Sequence[Mapping[str, Any]], references: Mapping[str, str] | None = None
) -> str | None:
    """The name of the best student (or of the best of all, if there is none).

    references: of a suite over several data sets; then the best of those that have one.
    """
    scored = [e for e in experiments if e.get("mAP") is not None]
    students = [e for e in scored if e["name"] in (references or ())]
    students = students or [e for e in scored if e["name"] != "teacher"] or scored
    return max(students, key=lambda e: e["mAP"])["name"] if students else None


def _kind(experiments: Sequence[Mapping[str, Any]]) -> str:
    return "student" if any(e.get("label") == "soft" for e in experiments) else "experiment"


def _tiles(
    experiments: Sequence[Mapping[str, Any]], best_name: str | None, reference: str
) -> list[tuple[str, str, str]]:
    """(name, value, remark) of the headline numbers."""
    named = {e["name"]: e for e in experiments if e.get("mAP") is not None}
    maps = {name: f"{result_tables.format_percent(e['mAP'])} %" for name, e in named.items()}
    tiles, best, base = [], named.get(best_name or ""), named.get(reference)
    if best:
        name = best["name"]
        tiles.append((f"best {_kind([best])}", f"{maps[name]} mAP", name))
    if best and base and base is not best:
        remark = f"from {maps[reference]}"
        if best.get("notes") or base.get("notes"):
            remark += "; see the notes"
        over = best.get("over_reference")
        if over and not result_tables.excludes_zero(over):
            remark += f"; {result_tables.NOT_TOLD_APART} on these clips"
        over_what = "over weak labels" if reference == "weak" else f"over {reference}"
        gain = f"{100 * (best['mAP'] - base['mAP']):+.2f} points"
        tiles.append((over_what, gain, remark))
    if "teacher" in maps:
        tiles.append(("teacher", f"{maps['teacher']} mAP", "the machine annotator"))
    return tiles
