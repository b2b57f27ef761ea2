"""Small prepared data with soft labels, and the command `psl-jax labels` on them."""

import csv
import dataclasses

import numpy as np
import synthetic_data

from psl_jax.audio.segments import Segmentation
from psl_jax.commands import labels
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import Source

# Ids as AudioSet's are: "-", "_" and "Y" anywhere, also one that is another one's with a Y.
IDS = (
    "--PJHxphWEs",
    "YabcdefghiJ",
    "_x-_yz01234",
    "abcdefghiJ_",
    "Y-_-_-_-_-_",
    "0123456789a",
    "-_",
)
CLASSES = ("Speech", "Vehicle horn, car horn, honking", "Dog")
SECONDS = (2.0, 1.3, 0.2, 3.0, 2.9, 1.0, 0.6)


def index(**changes) -> ClipIndex:
    lengths = [round(16_000 * seconds) for seconds in SECONDS]
    made = synthetic_data.make_index([3, 0, 4], lengths)
    fields = {"ids": np.array(IDS), "classes": CLASSES, "split": "train"}
    return dataclasses.replace(made, **(fields | changes))


def write_data(folder, made: ClipIndex) -> Source:
    """Prepared noise."""
    synthetic_data.write_prepared(folder, made, synthetic_data.make_audio(made))
    return Source.open(folder, made.split)


def values(made: ClipIndex, segmentation: Segmentation) -> list[np.ndarray]:
    """Random labels of each clip, and the values of float16 that are hard to keep."""
    found = synthetic_data.make_probabilities(made, segmentation)
    hard = np.array([0, 1, 6e-8, 0.9995, 0.5], np.float16)
    for number, value in enumerate(hard):
        found[number % len(found)][0, number % made.num_classes] = value
    return found


def write_labels(folder, made: ClipIndex, segmentation: Segmentation, **options) -> SoftLabels:
    given = values(made, segmentation)
    return synthetic_data.write_soft_labels(folder, made, segmentation, given, "t", **options)


def run(*arguments) -> None:
    labels.main(labels.parse(["labels", *map(str, arguments)]))


def read(folder, made: ClipIndex, segmentation: Segmentation) -> np.ndarray:
    """float16 [clips, segments, classes]."""
    return SoftLabels.open(folder, made, segmentation).gather(np.arange(len(made)))


# --- for import: segments of one second ---------------------------------------------------------

SEGMENTATION = Segmentation(1.0)


def bring_in(path, data, out, *options, seconds="1") -> None:
    place = ("--split=train", f"--segment_seconds={seconds}", f"--out={out}")
    run("import", path, data, *place, *options)


def write_table(path, rows, header=("clip", "segment", *CLASSES)):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def all_rows() -> list[list]:
    """A row for each segment: clip, number, three probabilities."""
    counts = SEGMENTATION.count_segments(index().num_samples)
    return [[IDS[c], s, 0.1, 0.2, 0.3] for c in range(len(IDS)) for s in range(counts[c])]
