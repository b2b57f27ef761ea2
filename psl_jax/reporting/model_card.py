"""What a published model's README says: where it comes from, how good it is, what it is for."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from psl_jax.networks.trained_model import Model
from psl_jax.reporting import run_page
from psl_jax.reporting.result_tables import list_metrics, read_classes
from psl_jax.runtime import files, run_files
from psl_jax.runtime.paths import path_of
from psl_jax.scoring import bootstrap, evaluation, event_metrics
from psl_jax.tagging.windowing import FRAME_SECONDS

_MOST_CLASSES = 60  # that are listed in the card itself


def card(
    model: Model,
    run: str | os.PathLike[str],
    licence: str,
    use: str | None,
    written: Mapping[str, str],
) -> str:
    """Makes the card, in Markdown with the hub's header.

    Args:
      model: what is published.
      run: the folder that it comes from; figures and data are told where they lie there.
      licence: of the weights.
      use: what the model is meant for, in the words of who publishes it.
      written: files of the folder and what each holds.
    """
    folder = path_of(run)
    config = run_files.read_config(folder)
    figures = _read_figures(folder)
    has_few_classes = len(model.classes) <= _MOST_CLASSES
    rows = read_classes(folder / evaluation.PER_CLASS) if has_few_classes else []
    context = {
        "header": _make_header(model.info.name, licence, figures, config.get("data", {})),
        "model": model,
        "info": model.info,
        "frame_seconds": FRAME_SECONDS,
        "licence": licence,
        "use": use,
        "written": written,
        "data": _describe_data(folder, model.info.origin, config),
        "figures": figures,
        "tuned": model.info.thresholds,
        "median": np.median(model.info.thresholds.values) if model.info.thresholds else None,
        "has_few_classes": has_few_classes,
        "class_rows": rows,
        "metrics": {k: v for k, v in event_metrics.EVENT_METRICS.items() if rows and k in rows[0]},
    }
    return run_page.fill_template("card.md.jinja", context)


class Figure(NamedTuple):
    """A measured value: `text` and `interval` are for people; interval "": none was computed."""

    name: str
    value: float
    text: str
    interval: str
    num_clips: int | None


def _make_header(
    name: str, licence: str, measured: Sequence[Figure], data: Mapping[str, Any]
) -> list[str]:
    """Makes the lines of the hub's header that depend on the model; values in JSON are YAML."""
    licence_id = licence.lower().replace(" ", "-")
    is_id = all(letter.isalnum() or letter in ".-" for letter in licence_id)
    lines = (
        [f"license: {licence_id}"]
        if is_id
        else ["license: other", f"license_name: {json.dumps(licence)}"]
    )
    if measured:
        corpus, split = data.get("corpus") or "own data", data.get("eval_split") or "evaluation"
        result = {
            "task": {"type": "audio-classification", "name": "Audio tagging"},
            "dataset": {"type": corpus, "name": f"{corpus}, split {split}", "split": split},
            "metrics": [
                {
                    "type": figure.name,
                    "name": figure.name
                    + (f", 95 % interval {figure.interval}" if figure.interval else ""),
                    "value": round(figure.value, 6),
                }
                for figure in measured
            ],
        }
        lines.append(f"model-index: {json.dumps([{'name': name, 'results': [result]}])}")
    return lines


def _describe_data(
    folder: pathlib.Path, origin: Mapping[str, Any], config: Mapping[str, Any]
) -> list[str]:
    lines = []
    for split, split_info in (files.find_json(folder / run_files.DATA) or {}).items():
        if isinstance(split_info, Mapping) and "clips" in split_info:
            digest = str(split_info.get("ids_sha256", ""))[:12]
            lines.append(f"`{split}`: {split_info['clips']:,} clips (ids {digest}…)")
    if imported := origin.get("imported"):
        lines.append(f"weights imported from `{imported.get('file')}`")
    if config:
        data = config.get("data", {})
        splits = ", ".join(
            f"{what} on `{data[key]}`"
            for key, what in (
                ("train_split", "trained"),
                ("validation_split", "validated"),
                ("eval_split", "evaluated"),
            )
            if data.get(key)
        )
        lines.append(f"corpus `{data.get('corpus')}`; {splits}; labels: `{config.get('labels')}`")
    return [*lines, *(files.find_json(folder / run_files.NOTES, list) or [])]


def _read_figures(folder: pathlib.Path) -> list[Figure]:
    """Reads the figures of a run; mAP has the interval that other clips would give."""
    metrics = files.find_json(folder / evaluation.METRICS) or {}
    stored = evaluation.read_scores(folder)
    measured = []
    for name, value, text in list_metrics(metrics, 1):
        interval = ""
        if name == "mAP" and stored is not None:
            low, high = bootstrap.compute_map_interval(stored["targets"], stored["scores"])
            interval = f"{100 * low:.1f} to {100 * high:.1f} %"
        measured.append(Figure(name, value, text, interval, metrics.get("num_clips")))
    return measured
