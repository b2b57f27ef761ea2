"""What a published model's README says: where it comes from, how good it is, what it is for."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from psl_jax.networks.trained_model import Model
from psl_jax.reporting.class_table import PER_CLASS, read_classes
from psl_jax.reporting.result_tables import decimal, percent
from psl_jax.runtime import files, run_files
from psl_jax.runtime.paths import path_of
from psl_jax.scoring import bootstrap, evaluation, event_metrics
from psl_jax.tagging.windowing import FRAME_SECONDS

_FIGURES = {
    "mAP": ("mAP", 100, " %"),
    "mAP_at_3": ("mAP@3", 100, " %"),
    "lwlrap": ("lwlrap", 100, " %"),
    "AUC": ("AUC", 1, ""),
    "d_prime": ("d'", 1, ""),
    **{key: (name, 1, "") for key, name in event_metrics.EVENT_METRICS.items()},
}
_MOST_CLASSES = 60  # that are listed in the card itself


def card(
    model: Model,
    run: str | os.PathLike[str],
    licence: str,
    use: str | None,
    written: Mapping[str, str],
) -> str:
    """The card, in Markdown with the hub's header.

    Args:
      model: what is published.
      run: the folder that it comes from; figures and data are told where they lie there.
      licence: of the weights.
      use: what the model is meant for, in the words of who publishes it.
      written: files of the folder and what each holds.
    """
    folder = path_of(run)
    info = model.info
    config = run_files.read_config(folder)
    measured = _read_figures(folder)
    parts = [
        _make_header(info.name, licence, measured, config.get("data", {})),
        f"# {info.name}",
        f"Tags audio with {len(model.classes)} sound classes, a row of scores every "
        f"{FRAME_SECONDS:g} s. {info.architecture.title} of width {info.width:g} on log-mel "
        f"spectrograms of {info.sample_rate // 1000} kHz mono, trained on segments of "
        f"{info.segment_seconds:g} s with psl_jax.",
        "## Use",
        _describe_use(info.name, info.output, written),
        "## What it is for",
        use
        or "Whoever publishes this model has not said. It knows the classes that it was trained "
        "on, and sounds like those of its training data; measure it on your own recordings before "
        "anything depends on it.",
        "## Training data",
        _data(folder, info.origin, config),
        "## Figures",
        _make_table(measured),
        "## Thresholds",
        _thresholds(model),
        "## Licence",
        f"{licence}, as given by who publishes the weights.",
        "## Files",
        "\n".join(f"- `{name}`: {what}" for name, what in written.items()),
        f"Model digest `{model.digest}`.",
    ]
    if len(model.classes) <= _MOST_CLASSES:
        parts += ["## Classes", _list_classes(folder, model.classes)]
    return "\n\n".join(parts) + "\n"


class Figure(NamedTuple):
    """A measured value: `text` and `interval` are for people; interval "": none was computed."""

    name: str
    value: float
    text: str
    interval: str
    num_clips: int | None


def _make_header(
    name: str, licence: str, measured: Sequence[Figure], data: Mapping[str, Any]
) -> str:
    """Makes the hub's header in YAML; values in JSON are YAML too."""
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
    return "\n".join(
        [
            "---",
            *lines,
            "library_name: transformers",
            "pipeline_tag: audio-classification",
            "tags: [audio, audio-tagging, sound-event-detection, jax, psl_jax]",
            "---",
        ]
    )


def _describe_use(name: str, output: str, written: Mapping[str, str]) -> str:
    text = f"""With psl_jax, where FOLDER is this folder, or hf://USER/{name.replace(" ", "-")}:

```python
import psl_jax

model = psl_jax.load("FOLDER")
tags = model.tag("street.mp3")
tags.top(5)  # best classes of the whole file
tags.events()  # onset, offset, label, score; with the thresholds below
```

With transformers, where FOLDER may also be USER/NAME (before version 5.23 add
`function_to_apply="{output}"`):

```python
from transformers import pipeline

tag = pipeline("audio-classification", "FOLDER", trust_remote_code=True, top_k=None)
tag("street.wav")  # the probability of each class in the whole file
```

With PyTorch and safetensors alone: `AudioTagger` of `audio_tagger.py`."""
    if "tag.mjs" in written:
        text += """
In JavaScript (browser, node): `npm install onnxruntime-web`, then `node tag.mjs a.wav`."""
    return text


def _data(folder: pathlib.Path, origin: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    lines = []
    if (folder / run_files.DATA).exists():
        for split, split_info in files.read_json(folder / run_files.DATA).items():
            if isinstance(split_info, Mapping) and "clips" in split_info:
                digest = str(split_info.get("ids_sha256", ""))[:12]
                lines.append(f"- `{split}`: {split_info['clips']:,} clips (ids {digest}…)")
    if imported := origin.get("imported"):
        lines.append(f"- weights imported from `{imported.get('file')}`")
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
        lines.append(f"- corpus `{data.get('corpus')}`; {splits}; labels: `{config.get('labels')}`")
    if (folder / run_files.NOTES).exists():
        lines += [f"- {note}" for note in files.read_json(folder / run_files.NOTES)]
    return "\n".join(lines) or "Not known: this model lies outside of the folder of its run."


def _read_figures(folder: pathlib.Path) -> list[Figure]:
    """Reads the figures of a run; mAP has the interval that other clips would give."""
    if not (folder / evaluation.METRICS).exists():
        return []
    metrics = files.read_json(folder / evaluation.METRICS)
    stored = evaluation.read_scores(folder)
    measured = []
    for key, (name, scale, unit) in _FIGURES.items():
        if metrics.get(key) is None:
            continue
        interval = ""
        if key == "mAP" and stored is not None:
            low, high = bootstrap.compute_map_interval(stored["targets"], stored["scores"])
            interval = f"{100 * low:.1f} to {100 * high:.1f} %"
        decimals = 1 if scale == 100 else 3
        text = f"{scale * metrics[key]:.{decimals}f}{unit}"
        measured.append(Figure(name, metrics[key], text, interval, metrics.get("num_clips")))
    return measured


def _make_table(measured: Sequence[Figure]) -> str:
    if not measured:
        return "None: there is no evaluation in the folder that was published."
    lines = ["| figure | value | 95 % interval |", "| --- | --- | --- |"]
    lines += [f"| {figure.name} | {figure.text} | {figure.interval} |" for figure in measured]
    num_clips = measured[0].num_clips
    clips = "the evaluation split" if num_clips is None else f"{num_clips:,} clips"
    lines.append("")
    lines.append(
        f"On {clips}, means over classes. The interval is the bootstrap's over clips: what other "
        "clips of the same kind would do to the figure, not other seeds of the training."
    )
    return "\n".join(lines)


def _list_classes(folder: pathlib.Path, classes: Sequence[str]) -> str:
    """The classes, as a table of their figures where these are known."""
    rows = read_classes(folder / PER_CLASS)
    if not rows:
        return ", ".join(f"`{name}`" for name in classes)
    metrics = {k: v for k, v in event_metrics.EVENT_METRICS.items() if k in rows[0]}
    header = ["class", "AP %", *metrics.values(), "clips"]
    lines = [" | ".join(header), " | ".join(["---"] * len(header))]
    for row in rows:
        values = [percent(row["AP"], 1), *(decimal(row[key]) for key in metrics)]
        lines.append(" | ".join([f"`{row['class']}`", *values, str(row["num_positives"])]))
    return "\n".join(f"| {line} |" for line in lines)


def _thresholds(model: Model) -> str:
    tuned = model.info.thresholds
    if tuned is None:
        return "None were tuned: events begin at 0.5. `psl-jax thresholds` finds better ones."
    values = np.array(tuned.values)
    of = {"rows": "frames of 0.32 s", "clips": "clips"}.get(str(tuned.tuned_on.get("f1_of")), "")
    where = f" for best F1 of {of} on `{tuned.tuned_on.get('split')}`" if of else ""
    return (
        f"One for each class, tuned{where}: {values.min():.3g} to {values.max():.3g}, median "
        f"{np.median(values):.3g} (`labels.csv`)."
    )
