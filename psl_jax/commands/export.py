"""Writes a finished model for other runtimes, and checks the file against the Flax model.

    psl-jax export runs/psl2s --format=onnx --out=psl2s.onnx
    psl-jax export runs/psl2s --format=tflite --quantize --out=psl2s.tflite
    psl-jax export published.pt --classes=CLASSES.csv --format=safetensors --out=mine.safetensors

onnx, tflite and stablehlo map waveforms [batch, samples], in [-1, 1] and at the model's rate
(16 kHz, of mn04 32 kHz), to clip and frame probabilities. orbax, safetensors and torch hold the
weights alone. The command runs each file in its own runtime, on a synthetic signal and on clips of
the run's data where it finds them. If a probability differs from the model's by more than 1e-4
(with --quantize by more than 0.03 on average), it deletes the file and ends with exit status 2.
"""

import argparse
import os
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np

from psl_jax.exporting import check
from psl_jax.exporting.check import Differences
from psl_jax.exporting.formats import FORMATS, describe
from psl_jax.networks.class_lists import read_classes
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import disk_errors, distributed, files
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.runtime.paths import is_remote, path_of
from psl_jax.tagging import tagging_cli
from psl_jax.weights.load_model import load_model

TOLERANCE = 1e-4  # in probability, of every class of every clip and frame
QUANTIZED_TOLERANCE = 0.03  # in probability on average: what 8-bit weights are expected to cost


def export(
    model: Model,
    name: str,
    out: str | os.PathLike[str],
    *,
    signals: Sequence[np.ndarray],
    licence: str | None,
    quantize: bool = False,
) -> Differences:
    """Writes `model` in the format `name`, one of FORMATS, and checks what was written.

    Args:
      model: the finished model.
      out: file to write, which is replaced; for orbax a folder that is not there yet.
      signals: float32 [samples] each, audio to check it on.
      licence: of the weights; None: nothing is said of it.
      quantize: weights are stored as 8-bit integers (tflite).

    Raises UserError, and leaves nothing behind, where the file differs too much from the model, or
    where a library is missing.
    """
    form, out = FORMATS[name], path_of(out)
    if is_remote(out):
        with tempfile.TemporaryDirectory(prefix="psl_jax-") as folder:
            local = pathlib.Path(folder) / out.name
            difference = export(
                model, name, local, signals=signals, licence=licence, quantize=quantize
            )
            files.copy_tree(pathlib.Path(folder), out.parent)
        return difference
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        path = path_of(folder) / out.name
        try:
            form.write(path, model, describe(model, licence, quantized=quantize))
            runner = form.load(path)
        except ImportError as error:
            extra = "torch" if name == "torch" else "export"
            raise MissingPackageError(f"--format={name}", f"{error.name}", extra) from error
        difference = check.compare_with_flax(runner, model, signals=signals)
        check_difference(difference, name, quantized=quantize)
        for written in list(path_of(folder).iterdir()):
            os.replace(written, out.parent / written.name)
    return difference


def check_difference(difference: Differences, name: str, *, quantized: bool) -> None:
    """Raises UserError where an export differs too much from the Flax model."""
    measure = "mean" if quantized else "worst"
    value, limit = getattr(difference, measure), QUANTIZED_TOLERANCE if quantized else TOLERANCE
    if not value <= limit:
        raise UserError(
            f"the {name} export differs from the Flax model by {value:.2g} in probability (the "
            f"{measure} over classes, clips and frames), expected at most {limit:g}. It was "
            "removed. Try the versions of constraints.txt; if that does not help, report it"
            + (", or export without --quantize" if quantized else "")
        )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    parser = tagging_cli.make_parser("export", __doc__ or "")
    add = parser.add_argument
    add(
        "--format",
        required=True,
        choices=FORMATS,
        help="onnx, tflite, stablehlo: graph with front end; torch: PyTorch weights, with classes "
        "and settings in PATH.json; safetensors: all of this in one file; orbax: Flax weights "
        "in a folder, as a run has them (required)",
    )
    add("--out", required=True, metavar="PATH", help="file to write, for orbax a folder (required)")
    add(
        "--classes",
        metavar="CSV",
        help="CSV of class names, for a published .pt that is not of AudioSet (default: "
        "AudioSet's 527)",
    )
    add(
        "--quantize",
        action="store_true",
        help="tflite: 8-bit weights, computed in float32 (dynamic-range quantization) (default: "
        "float32 weights)",
    )
    add(
        "--licence",
        metavar="TEXT",
        help="licence of the weights, stored with them (default: the model's)",
    )
    return parser.parse_intermixed_args(arguments[1:])


def main(arguments: argparse.Namespace) -> None:
    """Writes the file, and prints how it compares with the model."""
    _refuse_settings(arguments)
    distributed.configure()
    classes = read_classes(arguments.classes)[0] if arguments.classes else None
    model = load_model(arguments.model, classes)
    rate = model.info.sample_rate
    clips = check.read_evaluation_clips(arguments.model, rate)
    signals = [*clips, check.make_synthetic_signal(rate=rate)]
    licence = model.info.origin.get("licence")
    if imported := model.info.origin.get("imported"):
        licence = f"that of {imported['file']}, from which the weights were imported"
    licence = arguments.licence or licence
    difference = export(
        model,
        arguments.format,
        arguments.out,
        signals=signals,
        licence=licence,
        quantize=arguments.quantize,
    )
    out = path_of(arguments.out)
    written = [path for path in [out, *out.rglob("*")] if path.is_file()]
    megabytes = sum(path.stat().st_size for path in written) / 1e6
    lengths = [*(n / rate for n in check.EXCERPT_SAMPLES), model.info.segment_seconds]
    seconds = ", ".join(f"{length:.3g}" for length in sorted(lengths))
    print(
        f"wrote {arguments.out}: {megabytes:.1f} MB\n"
        f"differs from the Flax model by at most {difference.worst:.1e} in probability, by "
        f"{difference.mean:.1e} on average\n"
        f"checked on {len(clips)} clips of the run's data and a synthetic signal: batches of 1 and "
        f"7, {seconds} s"
    )


def _refuse_settings(arguments: argparse.Namespace) -> None:
    name, out = arguments.format, path_of(arguments.out)
    if arguments.quantize and name != "tflite":
        raise UserError(f"--quantize is for --format=tflite, not {name}")
    suffix = {"safetensors": (".safetensors",), "torch": (".pt", ".pth")}.get(name)
    if suffix and out.suffix not in suffix:
        raise UserError(f"--out={out}: expected a name that ends in {' or '.join(suffix)}")
    if out.exists() and not out.is_file():
        raise UserError(f"--out={out} is a folder or a device; give a path that is not there yet")
    disk_errors.check_writable(out.parent, "--out")
