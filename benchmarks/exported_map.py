"""mAP of exported models beside the Flax model's, on a prepared split: what quantizing costs.

    python benchmarks/exported_map.py runs/psl2s psl2s.tflite psl2s_8bit.tflite --data_dir DATA

Files are what `psl-jax export` wrote, with waveforms as input; the format is told from
the suffix. A clip's score is the mean over its segments, as in the evaluation. Prints a table and
writes JSON.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags

from psl_jax.audio.segments import Segmentation
from psl_jax.commands import export
from psl_jax.data import batches
from psl_jax.data.source import Source
from psl_jax.exporting import check
from psl_jax.exporting.export_options import Runner
from psl_jax.runtime import cli_entry, files
from psl_jax.runtime.errors import UserError
from psl_jax.scoring import evaluation
from psl_jax.weights import load_model

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

SUFFIXES = {".onnx": "onnx", ".tflite": "tflite", ".stablehlo": "stablehlo", ".pt": "torch"}
BATCH = 16


def open_runner(path: str) -> Runner:
    """An exported file in its own runtime. Raises UserError for an unknown suffix."""
    suffix = pathlib.Path(path).suffix
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
    return export.format_named(SUFFIXES[suffix]).load(pathlib.Path(path))


def score_clips(runner: Runner, source: Source, segmentation: Segmentation) -> np.ndarray:
    """float32 [clips, classes]: means over segments, none of them padded."""
    index = source.index
    totals = np.zeros((len(index), index.num_classes))
    for batch in batches.eval_batches(source, segmentation, batch_size=BATCH):
        audio = batch["audio"].astype(np.float32) / 32768
        lengths = np.where(batch["weight"] > 0, batch["num_samples"], 0)
        for length in np.unique(lengths[lengths > 0]):
            rows = np.flatnonzero(lengths == length)
            np.add.at(totals, batch["clip"][rows], runner(audio[rows, :length])[0])
    return (totals / segmentation.count_segments(index.num_samples)[:, None]).astype(np.float32)


def measure(run: str, paths: Sequence[str], source: Source) -> list[dict]:
    """mAP of the model of `run` and of each file, and how far their clip scores differ."""
    model = load_model.load_model(run)
    if model.classes != source.index.classes:
        raise UserError(f"{run} knows other classes than split {source.index.split!r}")
    segmentation = Segmentation(model.info.segment_seconds)
    expected = score_clips(check.make_flax_runner(model), source, segmentation)
    rows = [{"model": run, "mAP": evaluation.mean_average_precision(expected, source.index)}]
    for path in paths:
        scores = score_clips(open_runner(path), source, segmentation)
        rows.append(
            {
                "model": path,
                "mAP": evaluation.mean_average_precision(scores, source.index),
                "loss": rows[0]["mAP"] - evaluation.mean_average_precision(scores, source.index),
                "worst": float(np.abs(scores - expected).max()),
                "mean": float(np.abs(scores - expected).mean()),
                "megabytes": os.path.getsize(path) / 1e6,
            }
        )
    return rows


def open_split(data_dir: str, split: str) -> Source:
    """A prepared split."""
    from psl_jax.data.source import Source

    return Source.open(data_dir, split)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="the model that was exported")
    parser.add_argument("exports", metavar="FILE", nargs="+", help="exported files")
    parser.add_argument("--data_dir", required=True, help="prepared data")
    parser.add_argument("--split", default="eval", help="(default: eval)")
    parser.add_argument("--out", default="exported_map.json", metavar="JSON")
    flags.FLAGS(arguments[:1])  # absl's own, which nobody gives here, count as read
    return parser.parse_args(arguments[1:])


def main(arguments: argparse.Namespace) -> None:
    source = open_split(arguments.data_dir, arguments.split)
    rows = measure(arguments.run, arguments.exports, source)
    print(f"{len(source.index)} clips of {arguments.split}")
    for row in rows:
        print(f"mAP {100 * row['mAP']:.3f}", end="")
        if "loss" in row:
            print(f", {100 * row['loss']:+.3f} lost, worst {row['worst']:.1e}", end="")
        print(f"  {row['model']}")
    files.write_json(arguments.out, vars(arguments) | {"results": rows})


if __name__ == "__main__":
    cli_entry.run(main, parse)
