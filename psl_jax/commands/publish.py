"""Writes a finished model as a folder that can be uploaded to a hub, or passed on.

    psl-jax publish runs/psl2s --out=psl2s --licence=cc-by-4.0
    hf upload USER/psl2s psl2s                                # then psl_jax.load("hf://USER/psl2s")

The folder holds model.safetensors, what transformers needs to open it (config.json,
preprocessor_config.json and two Python files, one of them the network in PyTorch alone),
model.onnx, labels.csv with thresholds, the metrics, and the model's card README.md: data, metrics
with intervals, purpose, licence. The command names the files that it leaves out because a package
is not installed. psl_jax.load reads the folder.
"""

import argparse
import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence

from psl_jax import exporting
from psl_jax.commands import export
from psl_jax.exporting import check
from psl_jax.exporting.formats import load_torch
from psl_jax.networks.trained_model import Model
from psl_jax.reporting import model_card
from psl_jax.runtime import disk_errors, distributed, files
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.runtime.paths import absolute
from psl_jax.tagging import tagging_cli
from psl_jax.weights.load_model import load_model

_PACKAGE = pathlib.Path(exporting.__file__).parent
_EVALUATION = {"metrics.json": "figures", "per_class.csv": "figures of each class"}
_TORCH_FILES = {
    "audio_tagger.py": "the network in PyTorch, without psl_jax",
    "tagger_for_transformers.py": "model and feature extractor for transformers",
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    parser = tagging_cli.make_parser("publish", __doc__ or "")
    add = parser.add_argument
    add(
        "--out",
        required=True,
        metavar="DIR",
        help="folder to write: new, empty, or written by publish before (required)",
    )
    add(
        "--licence",
        metavar="TEXT",
        help="licence of the weights, such as cc-by-4.0 (default: the one stored with the model; "
        "required if there is none)",
    )
    add(
        "--use",
        metavar="TEXT",
        help="what the model is for: a sentence for its model card (default: none)",
    )
    return parser.parse_intermixed_args(arguments[1:])


def main(arguments: argparse.Namespace) -> None:
    """Writes the folder, and prints what is in it."""
    distributed.configure()
    out = absolute(arguments.out)
    _refuse_foreign(out)
    disk_errors.check_writable(out.parent, "--out")
    model = load_model(arguments.model)
    licence = arguments.licence or model.info.origin.get("licence")
    if not licence:
        raise UserError(
            "--licence is missing: say under which licence the weights are published, such as "
            "--licence=cc-by-4.0 (that of what they were trained on may bind you)"
        )
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = pathlib.Path(temporary) / out.name
        folder.mkdir()
        written, missing = publish(model, arguments.model, folder, licence, arguments.use)
        if out.exists():  # renamed first: killed here, no half of it is left
            os.replace(out, pathlib.Path(temporary) / "former")
        os.replace(folder, out)
    for name, what in written.items():
        print(f"  {name:26} {what}")
    for line in missing:
        print(line)
    print(f"{arguments.out}: look through its README.md before it is uploaded")


def publish(
    model: Model,
    run: str | os.PathLike[str],
    folder: pathlib.Path,
    licence: str,
    use: str | None = None,
) -> tuple[dict[str, str], list[str]]:
    """Writes a model, which was read from `run`, into an empty folder.

    use: what the model is for, a sentence for its card; None: the card says nothing of it.

    Returns the files with what they hold, and a line on each that was left out.
    """
    rate = model.info.sample_rate
    signals = [*check.read_evaluation_clips(run, rate), check.make_synthetic_signal(rate=rate)]
    written, missing = {"README.md": "this model card"}, []
    export.export(
        model, "safetensors", folder / "model.safetensors", signals=signals, licence=licence
    )
    written["model.safetensors"] = "weights, classes, front end and thresholds"
    written |= _write_for_transformers(folder, model)
    try:
        difference = check.compare_with_flax(
            load_torch(folder / "model.safetensors"), model, signals=signals
        )
        export.check_difference(difference, "PyTorch", quantized=False)
    except ImportError as error:
        missing.append(f"the PyTorch files are not checked: {error.name} is not installed")
    try:
        export.export(model, "onnx", folder / "model.onnx", signals=signals, licence=licence)
        written["model.onnx"] = "graph from waveforms to probabilities"
        shutil.copy(_PACKAGE / "tag.mjs", folder)
        written["tag.mjs"] = "example in JavaScript"
    except MissingPackageError as error:
        missing.append(f"without model.onnx: {error}")
    written["labels.csv"] = "classes and thresholds"
    rows = zip(range(len(model.classes)), model.classes, model.thresholds.values, strict=True)
    files.write_csv(folder / "labels.csv", ("index", "label", "threshold"), rows)
    for file, what in _EVALUATION.items():
        if (pathlib.Path(run) / file).exists():
            shutil.copy(pathlib.Path(run) / file, folder / file)
            written[file] = what
    text = model_card.card(model, run, licence, use, written)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return written, missing


def _write_for_transformers(folder: pathlib.Path, model: Model) -> dict[str, str]:
    """Writes what transformers needs beside the weights; returns the files with what they hold."""
    module = "tagger_for_transformers"
    logmel = model.info.logmel.exported()
    problem = {"sigmoid": "multi_label", "softmax": "single_label"}[model.info.output]
    config = {
        "architectures": ["TaggerForAudioClassification"],
        "auto_map": {
            "AutoConfig": f"{module}.TaggerConfig",
            "AutoModelForAudioClassification": f"{module}.TaggerForAudioClassification",
        },
        "model_type": "psl_jax",
        "problem_type": f"{problem}_classification",
        "id2label": dict(enumerate(model.classes)),
        "label2id": {name: number for number, name in enumerate(model.classes)},
        "network": model.info.network,
        "width": model.info.width,
        "sample_rate": model.info.sample_rate,
        "top_db": None if logmel.top_db_over == "none" else logmel.top_db,
    }
    extractor = {
        "feature_extractor_type": "TaggerFeatureExtractor",
        "auto_map": {"AutoFeatureExtractor": f"{module}.TaggerFeatureExtractor"},
        "feature_size": 1,
        "sampling_rate": model.info.sample_rate,
        "padding_value": 0.0,
    }
    files.write_json(folder / "config.json", config)
    files.write_json(folder / "preprocessor_config.json", extractor)
    for name in _TORCH_FILES:
        shutil.copy(_PACKAGE / name, folder)
    return {
        "config.json": "description of the model for transformers",
        "preprocessor_config.json": "description of its input",
        **_TORCH_FILES,
    }


def _refuse_foreign(out: pathlib.Path) -> None:
    """Raises UserError where `out` holds something that was not published here."""
    config = out / "config.json"
    is_published = config.exists() and (out / "model.safetensors").exists()
    if is_published:
        described = files.read_json(config, object)
        is_ours = isinstance(described, dict) and described.get("model_type") == "psl_jax"
        is_published = is_ours and not (out / ".git").exists()
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not is_published):
        raise UserError(
            f"--out={out} holds something else, which would be deleted: give a folder that is not "
            "there yet"
        )
