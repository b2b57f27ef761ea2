"""Relabeling and training from TFRecords, beside their programs on a batch that is at hand.

    psl-jax prepare --corpus own_data ...       # or any prepared data set
    python benchmarks/whole_loops.py --data_dir DATA --split balanced

In alternating rounds, for relabeling (clips in, label shards out) and for training (the loop of
psl_jax.main with its log, no validation): segments a second of the whole and of the program alone,
and their ratio; medians over rounds. The network has random weights. Writes whole_loops.json.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
from absl import flags as absl_flags

from psl_jax.audio.segments import Segmentation
from psl_jax.data import batches
from psl_jax.data.segment_loader import Segments
from psl_jax.data.source import Source
from psl_jax.data.training_order import TrainingOrder
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.mobilenetv2 import create
from psl_jax.runtime import cli_entry, distributed, huge_pages, parallel
from psl_jax.scoring import relabeling as relabel_lib
from psl_jax.scoring.scorer import Scorer, scoring_program
from psl_jax.training import metric_log
from psl_jax.training.checkpoints import TrainingCheckpoints
from psl_jax.training.loop import LoopSettings, Schedule, train
from psl_jax.training.step import Recipe, init_state, train_program
from psl_jax.training.stepper import Stepper


def relabel_rates(source, segmentation, variables, flags) -> tuple[Callable, Callable]:
    """Two functions that return segments a second: of relabeling, and of its program."""
    scorer = Scorer(variables, LogMel(), flags.dtype)
    settings = {"batch_size": flags.batch}
    batch = next(batches.eval_batches(source, segmentation, **settings))
    inputs = parallel.put_batch({k: batch[k] for k in ("audio", "num_samples")}, scorer.mesh)
    program = scoring_program(LogMel(), flags.dtype, scorer.mesh, False)  # the scorer's own
    count = int(segmentation.counts(source.index.num_samples).sum())

    def whole() -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            relabel_lib.relabel(
                scorer,
                source,
                segmentation,
                pathlib.Path(folder),
                teacher=relabel_lib.TeacherIdentity("benchmark"),
                **settings,
            )
            return count / (time.perf_counter() - start)

    def bare() -> float:
        result, runs = None, -(-count // flags.batch)
        start = time.perf_counter()
        for _ in range(runs):
            result = program(scorer.network, inputs["audio"], inputs["num_samples"])
        jax.block_until_ready(result)
        return runs * flags.batch / (time.perf_counter() - start)

    return whole, bare


def train_rates(source, segmentation, network, variables, flags) -> tuple[Callable, Callable]:
    """The same of training: the rate of the loop from its log, and of its program."""
    mesh = parallel.data_mesh()
    program = train_program(network, Recipe(dtype=flags.dtype), mesh)
    every = max(flags.steps // 4, 1)
    settings = LoopSettings(flags.steps, flags.steps, flags.steps, every, 0)

    segments, order = Segments(source, segmentation), TrainingOrder(flags.batch, seed=0)

    def feed(step: int):
        return batches.train_batches(segments, order, start_step=step)

    def whole() -> float:
        with tempfile.TemporaryDirectory() as folder:
            with TrainingCheckpoints(pathlib.Path(folder) / "checkpoints") as kept:
                train(
                    Stepper(program, feed, mesh),
                    init_state(variables),
                    mesh=mesh,
                    schedule=Schedule(),
                    settings=settings,
                    validate=lambda variables: 0.0,
                    checkpoints=kept,
                    run_dir=folder,
                    description="train",
                )
            lines = [line for line in metric_log.read_log(folder) if metric_log.LOSS in line]
        first, last = lines[0], lines[-2]  # the last one waited for nothing: it is flushed
        return (last["step"] - first["step"]) * flags.batch / (last["time"] - first["time"])

    def bare() -> float:
        inputs = parallel.put_batch(
            {k: v for k, v in next(feed(0)).items() if k in ("audio", "num_samples", "labels")},
            mesh,
        )
        state = parallel.replicate(init_state(variables), mesh)
        start = time.perf_counter()
        for _ in range(flags.steps):
            state, _ = program(state, inputs, 1e-4)
        jax.block_until_ready(state)
        return flags.steps * flags.batch / (time.perf_counter() - start)

    return whole, bare


def compare(name: str, whole: Callable, bare: Callable, rounds: int) -> dict[str, float]:
    """Medians after a round that compiles."""
    whole(), bare()
    pairs = [(whole(), bare()) for _ in range(rounds)]
    rates = [statistics.median(values) for values in zip(*pairs, strict=True)]
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{name}: {rates[0]:.1f} segments/s, bare {rates[1]:.1f}, ratio {ratio:.2f}", flush=True)
    return {"whole": rates[0], "bare": rates[1], "ratio": ratio}


def main(flags: argparse.Namespace) -> None:
    distributed.configure()
    source = Source.open(flags.data_dir, flags.split)
    segmentation = Segmentation(flags.seconds)
    network, variables = create(source.index.num_classes, flags.width)
    rates = relabel_rates(source, segmentation, variables, flags)
    result = {"relabel": compare("relabel", *rates, flags.rounds)}
    rates = train_rates(source, segmentation, network, variables, flags)
    result["train"] = compare("train", *rates, flags.rounds)
    flags.out.mkdir(parents=True, exist_ok=True)
    settings = {k: v for k, v in vars(flags).items() if k not in ("out", "data_dir")}
    (flags.out / "whole_loops.json").write_text(json.dumps(settings | result, indent=2) + "\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--split", default="balanced")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--steps", type=int, default=40, help="of training, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/benchmarks"))
    absl_flags.FLAGS(arguments[:1])  # absl's own, which nobody gives here, count as read
    return parser.parse_args(arguments[1:])


if __name__ == "__main__":
    huge_pages.restart_with_them()
    cli_entry.run(main, parse)
