"""What decisions of a person are worth, by simulation: labels and students after so many segments.

    python benchmarks/review.py DATA LABELS OUT [--segments 100,300,1000] [--seeds 0,1,2]
        [--split balanced] [--steps 1500] [--init_from mn04] [--init_class_map CSV]

DATA is a prepared data set with true events, LABELS are soft labels of its split. The annotator
answers for all classes of a segment by the true events. For each seed a student that starts from
mn04 is trained on the labels as they are. Segments are chosen with it as psl-jax review does, or
all at random. It measures the segment mAP of the corrected labels, and the mAP of students that
are trained on these.
OUT/results.jsonl has a line for each; what is there is not done again.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from psl_jax.data.corrections import Corrections
from psl_jax.data.decision_table import NO, OTHERS, YES, Decision
from psl_jax.data.label_manifest import segmentation_of
from psl_jax.data.segment_loader import Segments
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import open_folder
from psl_jax.networks.trained_model import DEFAULT_THRESHOLD
from psl_jax.runtime import cli_entry, files
from psl_jax.scoring import metrics
from psl_jax.scoring.segment_choice import choose_useful, score_segments
from psl_jax.weights.load_model import load_model

STUDENT = [  # a new classifier on a published network
    *("--config.model.network=mn", "--config.model.width=0.4", "--config.model.dropout=0.2"),
    *("--config.train.trainable=classifier", "--config.train.learning_rate=1e-3"),
    *("--config.train.batch_size=16", "--config.train.schedule=polynomial"),
    *("--config.train.decay_power=1.0", "--config.train.patience=0", "--config.teacher="),
    *("--config.train.best_checkpoints=1", "--config.train.min_steps=0"),
]


class Simulation:
    """A split with its labels and true events, and where results go."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.out = arguments, pathlib.Path(arguments.out)
        self.source = open_folder(arguments.data, arguments.split)
        self.index = self.source.index
        segmentation = segmentation_of(arguments.labels)
        self.segments = Segments(self.source, segmentation)
        soft = SoftLabels.open(arguments.labels, self.index, segmentation)
        self.numbers = np.arange(len(self.segments))
        self.labels = soft.of_segments(*self.segments.places(self.numbers)).astype(np.float32)
        truth = self.index.segment_labels(segmentation)
        self.truth = truth[self.segments.places(self.numbers)]
        self.results = self.out / "results.jsonl"

    def decide(self, numbers: Sequence[int], name: str) -> pathlib.Path:
        """Writes the table of an annotator who knows the truth of segments."""
        path = self.out / f"{name}.csv"
        clips, places = self.segments.places(np.array(numbers))
        times = zip(*self.segments.segmentation.compute_times(places), strict=True)
        rows = []
        for number, clip, span in zip(numbers, clips, times, strict=True):
            answers = [(self.index.classes[k], YES) for k in np.flatnonzero(self.truth[number])]
            where = self.index.ids[clip], *map(float, span)
            rows += [Decision(*where, *answer, "annotator") for answer in (*answers, (OTHERS, NO))]
        files.write_csv(path, Decision._fields, rows)
        return path

    def measure_labels(self, table: pathlib.Path | None) -> float:
        """Segment mAP of the labels with the corrections of a table."""
        labels = self.labels.copy()
        if table is not None:
            corrections = Corrections.read(str(table))
            decided = corrections.find_values(self.index, self.segments.segmentation)
            decided.put(labels, self.numbers)
        return metrics.mean_over_scored_classes(metrics.average_precision(self.truth, labels))

    def train(self, name: str, seed: int, table: pathlib.Path | None) -> float:
        """The mAP of a student on the split eval."""
        run = self.out / name
        command = [sys.executable, "-m", "psl_jax.main", "--config", "configs/psl2s.py"]
        command += [f"--workdir={run}", *STUDENT, f"--config.seed={seed}"]
        command += [f"--config.data.data_dir={self.arguments.data}"]
        command += [
            f"--config.data.{use}_split={self.arguments.split}" for use in ("train", "validation")
        ]
        command += [f"--config.soft_labels_dir={self.arguments.labels}"]
        command += [f"--config.init_from={self.arguments.init_from}"]
        command += [f"--config.init_class_map={self.arguments.init_class_map}"]
        command += [f"--config.train.max_steps={self.arguments.steps}"]
        command += [f"--config.train.validate_every={self.arguments.steps}"]
        command += [f"--config.corrections={table}"] if table else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return float(files.read_json(run / "metrics.json")["mAP"])

    def choose(self, seed: int, selection: str) -> list[int]:
        """Segments in the order of `selection`: "review" or "random"."""
        if selection == "random":
            return np.random.default_rng(seed).permutation(self.numbers).tolist()
        model = load_model(self.out / f"none-{seed}").for_classes(self.index.classes)
        chosen = choose_useful(
            self.numbers,
            score_segments(model, self.segments, self.numbers),
            self.labels,
            thresholds=np.full(self.index.num_classes, DEFAULT_THRESHOLD),
            random_share=0.2,
            seed=seed,
        )
        return [segment.number for segment in chosen]

    def note(self, **result: object) -> None:
        with self.results.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(json.dumps(result), flush=True)

    def is_noted(self, **wanted: object) -> bool:
        lines = self.results.read_text().splitlines() if self.results.exists() else []
        return any(wanted.items() <= json.loads(line).items() for line in lines)


def main(arguments: argparse.Namespace) -> None:
    simulation = Simulation(arguments)
    simulation.out.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    tables: dict[tuple[int, str, int], pathlib.Path | None] = {}
    for seed in seeds:
        tables[seed, "none", 0] = None
        if not simulation.is_noted(seed=seed, selection="none", what="student"):
            value = simulation.train(f"none-{seed}", seed, None)
            simulation.note(seed=seed, selection="none", segments=0, what="student", mAP=value)
        for selection in ("review", "random"):
            order = simulation.choose(seed, selection)
            for count in map(int, arguments.segments.split(",")):
                name = f"{selection}-{seed}-{count}"
                tables[seed, selection, count] = simulation.decide(order[:count], name)
    for (seed, selection, count), table in tables.items():
        if not simulation.is_noted(seed=seed, selection=selection, segments=count, what="labels"):
            value = simulation.measure_labels(table)
            simulation.note(
                seed=seed, selection=selection, segments=count, what="labels", mAP=value
            )
    # Of all seeds the most segments first: where it is stopped, these are the ones that are known.
    for (seed, selection, count), table in sorted(
        tables.items(), key=lambda x: (-x[0][2], x[0][0])
    ):
        is_noted = simulation.is_noted(
            seed=seed, selection=selection, segments=count, what="student"
        )
        if not is_noted:
            value = simulation.train(f"{selection}-{seed}-{count}", seed, table)
            simulation.note(
                seed=seed, selection=selection, segments=count, what="student", mAP=value
            )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("data", "labels", "out"):
        parser.add_argument(name)
    parser.add_argument("--split", default="balanced")
    parser.add_argument("--segments", default="100,300,1000")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--init_from", default="mn04")
    parser.add_argument("--init_class_map", default="")
    flags.FLAGS(arguments[:1])  # absl's own, which nobody gives here, count as read
    return parser.parse_args(arguments[1:])


if __name__ == "__main__":
    cli_entry.run(main, parse)
