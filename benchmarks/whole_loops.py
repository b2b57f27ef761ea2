"""Relabeling and training from TFRecords, beside their programs on a batch that is there already.

    python benchmarks/whole_loops.py                      # 1,024 clips of noise
    python benchmarks/whole_loops.py --data_dir DATA --split balanced --repeat 16

In alternating rounds, for relabeling (clips in, label shards out) and for training (the loop of
psl_jax.main with its log, a validation and a checkpoint at each quarter): segments a second of the
whole and of the program alone, their ratio, how many cores the whole used and, of training, what
share of the time it waited for its input; medians over rounds. The shards are read again and again
under other names, from the page cache; they are the validation set too. The network has random
weights. Prepared data need no TensorFlow.
Appends a JSON line for each to --out.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import input_pipeline
import jax
import numpy as np
from cases import make_shallow

from psl_jax.audio.segments import Segmentation
from psl_jax.data import batches
from psl_jax.data.clip_index import joined
from psl_jax.data.segment_loader import Segments
from psl_jax.data.source import Source
from psl_jax.data.training_order import TrainingOrder
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.mobilenetv2 import create, fold
from psl_jax.runtime import distributed, huge_pages, parallel
from psl_jax.scoring import evaluation, metrics
from psl_jax.scoring import relabeling as relabel_lib
from psl_jax.scoring.scorer import Scorer, scoring_program
from psl_jax.training import metric_log
from psl_jax.training.checkpoints import TrainingCheckpoints
from psl_jax.training.loop import train
from psl_jax.training.settings import TrainSettings
from psl_jax.training.step import Recipe, init_state, train_program

Rates = dict[str, float]


def repeated(source: Source, times: int) -> Source:
    """Its shards so many times, one after the other."""
    indices = [
        dataclasses.replace(source.index, ids=np.char.add(f"{k} ", source.index.ids.astype(str)))
        for k in range(times)
    ]
    index = joined(indices)  # which takes no clip twice
    return Source(
        source.paths * times, dataclasses.replace(index, ids=np.tile(source.index.ids, times))
    )


def measured(segments: int, function: Callable[[], object]) -> Rates:
    """Segments a second of a function, and how many cores worked on it."""
    start, cpu = time.perf_counter(), time.process_time()
    function()
    seconds = time.perf_counter() - start
    return {
        "segments_per_second": segments / seconds,
        "cores": (time.process_time() - cpu) / seconds,
    }


def relabel_rates(source, segmentation, variables, flags) -> tuple[Callable, Callable]:
    """Two functions that return `measured`: of relabeling, and of its program."""
    scorer = Scorer(fold(variables), LogMel(), flags.dtype)
    batch_size = scorer.fitting(flags.relabel_batch, flags.seconds)
    batch = next(batches.eval_batches(source, segmentation, batch_size=batch_size))
    inputs = parallel.put_batch({k: batch[k] for k in ("audio", "num_samples")}, scorer.mesh)
    program = scoring_program(LogMel(), flags.dtype, scorer.mesh, False)  # the scorer's own
    count = int(segmentation.count_segments(source.index.num_samples).sum())
    runs = -(-count // batch_size)

    def whole() -> Rates:
        with tempfile.TemporaryDirectory() as folder:
            return measured(
                count,
                lambda: relabel_lib.relabel(
                    scorer,
                    source,
                    segmentation,
                    pathlib.Path(folder),
                    teacher=relabel_lib.TeacherIdentity("benchmark"),
                    batch_size=batch_size,
                ),
            )

    def bare() -> Rates:
        items = ((None, None) for _ in range(runs))
        made = parallel.compute_in_order(
            items,
            lambda *_: program(scorer.network, inputs["audio"], inputs["num_samples"]),
            alone=scorer.mesh.size == 1,
        )
        return measured(
            runs * batch_size, lambda: [jax.block_until_ready(result) for _, result in made]
        )

    return whole, bare


def train_rates(
    source, validated, segmentation, network, variables, flags
) -> tuple[Callable, Callable]:
    """The same of training: of the loop, and of its program."""
    mesh = parallel.data_mesh()
    program = train_program(network, Recipe(dtype=flags.dtype), mesh)
    every = max(flags.steps // 4, 1)
    settings = TrainSettings(
        max_steps=flags.steps,
        validate_every=every,
        checkpoint_every=every,
        log_every=max(every // 4, 1),
        patience=0,
        batch_size=flags.batch,
    )
    segments, order = Segments(source, segmentation), TrainingOrder(flags.batch, seed=0)

    def feed(step: int):
        return batches.train_batches(segments, order, start_step=step)

    def validate(variables) -> float:
        scorer = Scorer(fold(parallel.to_host(variables)), LogMel(), flags.dtype)
        scores = evaluation.score_clips(scorer, validated, segmentation, flags.relabel_batch)
        return metrics.mean_average_precision(validated.index.weak_labels(), scores)

    def whole() -> Rates:
        with (
            tempfile.TemporaryDirectory() as folder,
            TrainingCheckpoints(pathlib.Path(folder) / "checkpoints") as kept,
        ):
            rates = measured(
                flags.steps * flags.batch,
                lambda: train(
                    init_state(variables),
                    program=program,
                    feed=feed,
                    mesh=mesh,
                    settings=settings,
                    validate=validate,
                    checkpoints=kept,
                    run_dir=folder,
                    description="train",
                ),
            )
            lines = metric_log.read_log(folder)
        waited = [line[metric_log.INPUT_WAIT] for line in lines if metric_log.INPUT_WAIT in line]
        return rates | {"waiting_for_input": sum(waited) / max(len(waited), 1)}

    def bare() -> Rates:
        inputs = parallel.put_batch(
            {k: v for k, v in next(feed(0)).items() if k in ("audio", "num_samples", "labels")},
            mesh,
        )
        state = parallel.replicate(init_state(variables), mesh)

        def steps() -> None:
            nonlocal state
            for _ in range(flags.steps):
                state, _ = program(state, inputs, 1e-4)
            jax.block_until_ready(state)

        return measured(flags.steps * flags.batch, steps)

    return whole, bare


def compare(name: str, whole: Callable, bare: Callable, flags) -> None:
    """Medians after a round that compiles."""
    whole(), bare()
    pairs = [(whole(), bare()) for _ in range(flags.rounds)]
    result: dict = {"loop": name}
    for side, rates in zip(("whole", "bare"), zip(*pairs, strict=True), strict=True):
        result[side] = {key: statistics.median(one[key] for one in rates) for key in rates[0]}
    rate = "segments_per_second"
    result["ratio"] = statistics.median(a[rate] / b[rate] for a, b in pairs)
    print(json.dumps(result), flush=True)
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    with flags.out.open("a") as file:
        file.write(json.dumps(result) + "\n")


def main() -> None:
    flags = parse()
    distributed.configure()
    if flags.shallow:
        make_shallow()
    segmentation = Segmentation(flags.seconds)
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        if flags.data_dir:
            few = Source.open(flags.data_dir, flags.split)
        else:
            clips = flags.shards * input_pipeline.CLIPS_PER_SHARD
            few = input_pipeline.write_source(pathlib.Path(folder), clips, flags.shards)
        source = repeated(few, flags.repeat)
        network, variables = create(source.index.num_classes)
        rates = relabel_rates(source, segmentation, variables, flags)
        compare("relabel", *rates, flags)
        rates = train_rates(source, few, segmentation, network, variables, flags)
        compare("train", *rates, flags)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data_dir", help="prepared data (default: clips of noise; they need TensorFlow)")
    add("--split", default="balanced")
    add("--shards", type=int, default=1, help="of noise, of 256 clips of 10 s each")
    add("--repeat", type=int, default=4, help="how often the shards are read under other names")
    add("--seconds", type=float, default=2.0)
    add("--batch", type=int, default=32, help="of training")
    add("--relabel_batch", type=int, default=0, help="0: what relabeling chooses")
    add("--dtype", default="float32", choices=("float32", "bfloat16"))
    add("--steps", type=int, default=40, help="of training, in each round")
    add("--rounds", type=int, default=3)
    add("--shallow", action="store_true", help="a tiny network: only to try this program")
    add("--folder", help="where to put shards and labels")
    add("--out", type=pathlib.Path, default=pathlib.Path("runs/whole_loops.jsonl"))
    return parser.parse_args()


if __name__ == "__main__":
    huge_pages.restart_with_them()
    main()
