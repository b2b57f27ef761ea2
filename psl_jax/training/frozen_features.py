"""A frozen network's features, computed once and kept in memory: its classifier trains on them."""

from collections.abc import Callable, Iterator
from functools import lru_cache

import jax
import numpy as np

from psl_jax.data import batches
from psl_jax.data.segment_loader import Batch, Segments
from psl_jax.data.source import Source
from psl_jax.data.training_order import TrainingOrder
from psl_jax.networks.architecture import OUTPUTS, FrontEnd, Network, Variables, clip_probabilities
from psl_jax.networks.convolutions import product
from psl_jax.networks.folding import FoldedNetwork
from psl_jax.runtime import parallel, progress
from psl_jax.scoring.evaluation import AnySegmentation, compute_clip_means, score_batches
from psl_jax.scoring.metrics import mean_average_precision
from psl_jax.scoring.scorer import Scorer, compute_ahead
from psl_jax.training.step import Recipe, features_program


def num_bytes(
    network: Network, variables: Variables, front_end: FrontEnd, num_samples: np.ndarray
) -> int:
    """What the features take of segments or clips of `num_samples` [n]."""
    frames = network.output_frames(front_end.num_frames(num_samples))
    return 4 * len(variables.params["classifier"]["kernel"]) * int(frames.sum())


def compute_features(
    network: Network, variables: Variables, *, recipe: Recipe, segments: Segments, batch_size: int
) -> np.ndarray:
    """Features float32 [segments, frames, channels] of a split, as a step would make them.

    Each process computes all of them, as training draws from the whole split.
    """
    mesh = parallel.local_mesh()
    program = features_program(network, recipe, mesh)
    arrays = parallel.replicate(parallel.to_host(variables), mesh)
    source, segmentation, total = segments.source, segments.segmentation, len(segments)
    channels = len(variables.params["classifier"]["kernel"])
    frames = network.output_frames(recipe.front_end.num_frames(segmentation.segment_samples))
    features, first = np.empty((total, frames, channels), np.float32), 0
    size = -(-batch_size // mesh.size) * mesh.size
    feed = batches.eval_batches(source, segmentation, batch_size=size)
    with progress.bar(total, "segment", "features", show=jax.process_index() == 0) as bar:
        for _, rows in compute_ahead(lambda _, inputs: program(arrays, inputs), feed, mesh):
            features[first : first + len(rows)] = rows
            first += len(rows)
            bar.update(len(rows))
    return features


def train_batches(
    features: np.ndarray, segments: Segments, *, order: TrainingOrder, start_step: int
) -> Iterator[Batch]:
    """The batches of `batches.train_batches` with `features` instead of audio."""
    for numbers in order.batches(segments, start_step):
        batch = segments.describe(numbers)
        yield {"features": features[numbers]} | {k: batch[k] for k in ("num_samples", "labels")}


def make_validation(
    network: FoldedNetwork, recipe: Recipe, *, source: Source, cut: AnySegmentation, batch_size: int
) -> Callable[[Variables], float]:
    """Makes what gives the mAP of a split for a classifier, on embeddings of the first call."""
    scorer = Scorer(
        network,
        recipe.front_end,
        recipe.dtype,
        count_padding=recipe.count_padding,
        gives="embeddings",
    )
    program = _classifier_program(recipe.output)
    embedded: list[tuple[Batch, np.ndarray, np.ndarray]] = []  # clips, embeddings, frames of rows

    def embed(clips: np.ndarray) -> None:
        for batch, embeddings in score_batches(scorer, source, cut, batch_size, clips):
            samples = batch["num_samples"]
            if recipe.count_padding:
                samples = np.full_like(samples, batch["audio"].shape[1])
            frames = network.output_frames(recipe.front_end.num_frames(samples))
            embedded.append(({"clip": batch["clip"]}, embeddings, frames))

    def validate(variables: Variables) -> float:
        arrays = parallel.to_host(variables.params["classifier"])

        def score(clips: np.ndarray) -> Iterator[tuple[Batch, np.ndarray]]:
            if not embedded:
                embed(clips)
            for batch, *rows in embedded:
                yield batch, np.asarray(program(arrays, *rows))

        num_classes = arrays["kernel"].shape[-1]
        means = compute_clip_means(source.index, cut, score, num_classes=num_classes)
        return mean_average_precision(source.index.weak_labels(), means)

    return validate


@lru_cache
def _classifier_program(output: str) -> Callable[..., jax.Array]:
    """(classifier, embeddings [rows, frames, channels], frames that count) -> [rows, classes]"""

    def classify(
        arrays: dict[str, jax.Array], embeddings: jax.Array, frames: jax.Array
    ) -> jax.Array:
        probabilities = OUTPUTS[output](product(embeddings, arrays["kernel"]) + arrays["bias"])
        return clip_probabilities(probabilities, frames)

    return jax.jit(classify)
