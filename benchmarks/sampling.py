"""How the teacher's sampling spreads the classes over an epoch of a simulated AudioSet.

    python benchmarks/sampling.py [--clips 1900000]

Label frequencies fall as the classes' rank to the power -1.2, down to 67 of 1.9 million clips. Told
are the time to draw an epoch; in stretches of 20 x 527 draws, how often the rarest class is
missing, how its share there differs from that of the epoch, and how often one clip is drawn; and
how many batches of 32 hold a clip twice.
"""

import argparse
import pathlib
import sys
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.training_order import ClassQueue
from psl_jax.runtime import cli_entry

CLASSES, RAREST, SHARD, BATCH = 527, 67 / 1.9e6, 256, 32


def simulated(clips: int) -> ClipIndex:
    """An index of clips of 10 s with AudioSet's number of classes."""
    rng = np.random.default_rng(0)
    frequency = 0.5 * np.arange(1, CLASSES + 1) ** -1.2
    frequency[-20:] = np.geomspace(frequency[-21], RAREST, 20)
    members = [rng.choice(clips, max(n, 1), replace=False) for n in rng.binomial(clips, frequency)]
    rows = np.concatenate(members)
    labels = np.repeat(np.arange(CLASSES), [len(m) for m in members])
    order = np.lexsort((labels, rows))
    return ClipIndex(
        split="full",
        classes=tuple(map(str, range(CLASSES))),
        ids=np.arange(clips).astype(np.str_),
        num_samples=np.full(clips, 160_000, np.int32),
        label_offsets=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=clips))]),
        label_values=labels[order].astype(np.int32),
        shard_sizes=np.diff([*range(0, clips, SHARD), clips]),
    )


def main(arguments: argparse.Namespace) -> None:
    index = simulated(arguments.clips)
    queue = ClassQueue(index, seed=0)
    start = time.perf_counter()
    drawn = queue.clips(np.arange(len(index)))
    planned = time.perf_counter() - start
    rarest = int(index.class_counts().argmin())
    owner = np.repeat(np.arange(len(index)), np.diff(index.label_offsets))
    is_rare = np.zeros(len(index), bool)
    is_rare[owner[index.label_values == rarest]] = True
    length = 20 * CLASSES
    stretches = drawn[: len(drawn) // length * length].reshape(-1, length)
    shares = is_rare[stretches].mean(axis=1) / is_rare[drawn].mean()
    most = max(
        np.bincount(stretch[is_rare[stretch]]).max(initial=0)
        for stretch in stretches
        if is_rare[stretch].any()
    )
    batches = np.sort(drawn[: len(drawn) // BATCH * BATCH].reshape(-1, BATCH), axis=1)
    twice = (np.diff(batches, axis=1) == 0).any(axis=1).mean()
    print(
        f"{len(index):,} clips, {len(index.label_values) / len(index):.2f} labels each, the rarest "
        f"class has {is_rare.sum()}; an epoch drawn in {planned:.1f} s\n"
        f"rarest class: missing in {100 * np.mean(shares == 0):.1f} % of stretches of {length:,} "
        f"draws, {shares.min():.2f} to {shares.max():.2f} of its share; one clip up to {most} "
        f"times in one\n"
        f"batches of {BATCH} with a clip twice: {100 * twice:.2f} %"
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=1_900_000)
    flags.FLAGS(arguments[:1])  # absl's own, which nobody gives here, count as read
    return parser.parse_args(arguments[1:])


if __name__ == "__main__":
    cli_entry.run(main, parse)
