"""One self-contained HTML page for a run; how pages are made of templates.

A page is made from the files that the stages left behind, so it can be made again at any time;
what is missing is said on the page and left out.
"""

import datetime
import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from psl_jax.reporting import result_figures, result_tables
from psl_jax.reporting.result_tables import format_decimal, format_percent, read_classes
from psl_jax.runtime import files
from psl_jax.runtime.paths import path_of
from psl_jax.runtime.run_files import CONFIG, LABEL_QUALITY, NOTES
from psl_jax.runtime.settings import flatten
from psl_jax.scoring.evaluation import METRICS, PER_CLASS
from psl_jax.scoring.event_metrics import EVENT_METRICS
from psl_jax.training.metric_log import VALIDATION_MAP, read_log

REPORT_NAME = "report.html"

# --- A run ----------------------------------------------------------------------------------


def write_run_report(
    run_dir: str | os.PathLike[str], defaults: Mapping[str, Any] | None = None
) -> pathlib.Path:
    """Writes `run_dir/report.html` from the files of the run and returns its path.

    Reads config.json, train_log.jsonl, metrics.json, per_class.csv and label_quality.json, each
    optional. The checkpoints that `metrics.json` names as `averaged_steps` are marked, and settings
    that differ from `defaults` (nested as the config). UserError naming the file if one is damaged.
    """
    run_dir = path_of(run_dir)
    config, metrics, quality = (
        files.find_json(run_dir / name) for name in (CONFIG, METRICS, LABEL_QUALITY)
    )
    qualities = {"soft": quality} if quality else {}
    log, classes = read_log(run_dir), read_classes(run_dir / PER_CLASS)
    classes.sort(key=lambda row: (row["AP"] is None, -(row["AP"] or 0), row["class"]))
    averaged_steps = (metrics or {}).get("averaged_steps", ())
    best = [p for p in result_figures.read_curve(log, VALIDATION_MAP) if p[0] in averaged_steps]
    context = {
        "title": str((config or {}).get("name") or run_dir.resolve().name),
        "tiles": _run_tiles(metrics or {}, log, best),
        "metrics": metrics,
        "figures": result_figures.make_training_figures(log, best),
        "settings": _settings(config or {}, defaults),
        "marks_changes": defaults is not None,
        "classes": classes,
        "event_metrics": {k: v for k, v in EVENT_METRICS.items() if classes and k in classes[0]},
        "quality_figures": result_figures.make_label_figures(qualities),
        "quality_table": result_tables.make_quality_table(qualities),
        "notes": files.find_json(run_dir / NOTES, list) or [],
    }
    return render("run.html.jinja", run_dir / REPORT_NAME, context)


def _run_tiles(
    metrics: Mapping[str, Any], log: Sequence[Mapping[str, Any]], best: result_figures.Curve
) -> list[tuple[str, str, str]]:
    """(name, value, remark) of the headline numbers."""
    tiles = [(name, text, "") for name, _, text in result_tables.list_metrics(metrics)]
    if best:
        step, value = max(best, key=lambda p: p[1])
        tiles.append(("best validation mAP", f"{format_percent(value)} %", f"at step {step:,}"))
    if log:
        seconds = sum(  # a pause between two sittings is not training time
            gap
            for a, b in itertools.pairwise(log)
            if 0 < (gap := b.get("time", 0) - a.get("time", 0)) < 1800
        )
        remark = f"in {result_tables.format_duration(seconds)}" if seconds >= 1 else ""
        tiles.append(("steps", result_tables.format_count(log[-1]["step"]), remark))
    return tiles


def _settings(
    config: Mapping[str, Any], defaults: Mapping[str, Any] | None
) -> list[tuple[str, list[tuple[str, str, str | None]]]]:
    """[(group, [(key, value, the default if it differs)])], top-level scalars first."""
    flat_defaults = None if defaults is None else dict(flatten(files.as_json(defaults)))
    groups: dict[str, list[tuple[str, str, str | None]]] = {"general": []}
    for key, value in flatten(config):
        group, _, name = key.rpartition(".")
        default = value if flat_defaults is None else flat_defaults.get(key, "none")
        changed = None if default == value else f"default {_show(default)}"
        groups.setdefault(group or "general", []).append((name, _show(value), changed))
    return [(group, entries) for group, entries in groups.items() if entries]


def _show(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value) or "“”"


# --- Rendering ------------------------------------------------------------------------------


def render(template: str, path: pathlib.Path, context: Mapping[str, Any]) -> pathlib.Path:
    """Writes a page from a template of this package; returns its path."""
    html = fill_template(template, context)
    with files.atomic_open(path, encoding="utf-8") as file:
        file.write(html)
    return path


def fill_template(name: str, context: Mapping[str, Any]) -> str:
    """Fills a template of this package, whose name tells whether it is HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("psl_jax.reporting", "templates"),
        autoescape=".html" in name,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": format_percent,
        "decimal": format_decimal,
        "count": result_tables.format_count,
        "urlquote": quote,
    }
    environment.globals |= {
        "written": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "asset": asset,
    }
    return environment.get_template(name).render(context)


def asset(name: str) -> Markup:
    """A style sheet or script of the templates, which goes into a page as it is."""
    path = pathlib.Path(__file__).with_name("templates") / name
    return Markup(path.read_text(encoding="utf-8"))
