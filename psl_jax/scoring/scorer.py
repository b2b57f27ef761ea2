"""Class probabilities of segments: the forward program that evaluation and relabeling share."""

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from psl_jax.data.segment_loader import Batch
from psl_jax.networks.architecture import FrontEnd, clip_probabilities
from psl_jax.networks.convolutions import cut
from psl_jax.networks.folding import FoldedNetwork, JaxOperations, frame_probabilities
from psl_jax.runtime import parallel

CPU_BATCH = 32  # segments
DEVICE_SECONDS = 1024  # of audio, that a device is given at a time
TPU_LANES = 128

Program = Callable[..., jax.Array]  # (network, audio, num_samples) -> [rows, ...]
# What a program computes of each row: scores [classes], or embeddings [frames, channels].
Gives = Literal["scores", "embeddings"]


def make_score_function(
    front_end: FrontEnd,
    dtype: str,
    platform: str,
    padded: bool = False,
    count_padding: bool = False,
    gives: Gives = "scores",
) -> Callable[..., jax.Array]:
    """(folded network, audio, num_samples) -> what it gives of [batch] rows of each device.

    dtype: see `JaxOperations`. padded: rows may end in padding, which is to have no influence on
    the frames before it. count_padding: it is audio like any other, of zeros, and its
    frames count in the time mean. Of embeddings those of a row's audio count.
    Inside `data_parallel`.
    """
    operations = JaxOperations(jnp.dtype(parallel.dtype_on(platform, dtype)), platform)

    def score(network: FoldedNetwork, audio: jax.Array, num_samples: jax.Array) -> jax.Array:
        valid = None if count_padding else front_end.num_frames(num_samples)
        if count_padding:
            audio = cut(audio, num_samples)
        lengths = None if count_padding else num_samples
        features = front_end(audio, lengths, parallel.AXIS, platform)
        inside = valid if padded else None
        if gives == "embeddings":
            vectors: jax.Array = network.embeddings(features, operations, inside)
            return vectors
        frames = frame_probabilities(network, features, operations, inside)
        probabilities: jax.Array = clip_probabilities(
            frames, None if valid is None else network.output_frames(valid)
        )
        return probabilities

    return score


@lru_cache
def scoring_program(
    front_end: FrontEnd,
    dtype: str,
    mesh: Mesh,
    padded: bool = False,
    count_padding: bool = False,
    gives: Gives = "scores",
) -> Program:
    """The jitted `score_function` on `mesh`.

    Cached, so that experiments of one suite that need the same program compile it once.
    """
    platform = parallel.platform_of(mesh)
    score = make_score_function(front_end, dtype, platform, padded, count_padding, gives)
    specs = (parallel.REPLICATED, parallel.SPLIT, parallel.SPLIT)
    return parallel.data_parallel(score, mesh, specs, parallel.SPLIT)


class SegmentScorer(Protocol):
    """What turns batches of segments into scores of classes. where: what it runs on, for people."""

    @property
    def where(self) -> str: ...

    def fitting(self, batch_size: int, seconds: float) -> int:
        """`batch_size`, or the next larger one that suits; 0: one that does."""

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yields (batch, probabilities float32 [real rows, classes]), batch by batch.

        Rows of weight 0 are left out of both.
        """


class Scorer:
    """A network on the devices of this process, its BatchNorms folded into the convolutions.

    Processes score their own clips independently; nothing is exchanged between them.
    """

    def __init__(
        self,
        network: FoldedNetwork,
        front_end: FrontEnd,
        dtype: str = "float32",
        num_devices: int | None = None,
        count_padding: bool = False,
        gives: Gives = "scores",
    ):
        """network: arrays of the host. count_padding, gives: see `make_score_function`."""
        self.mesh = parallel.local_mesh(num_devices)
        platform, num_devices = parallel.platform_of(self.mesh), self.mesh.size
        self.where = f"{num_devices} {platform} device{'s' * (num_devices > 1)}"
        self.network = parallel.replicate(network, self.mesh)
        self._programs = {
            padded: scoring_program(
                front_end, dtype, self.mesh, padded and not count_padding, count_padding, gives
            )
            for padded in (False, True)
        }

    def fitting(self, batch_size: int, seconds: float) -> int:
        """`batch_size`, or the next larger one that divides evenly over the devices.

        0: what keeps them busy with segments of so many seconds. A CPU is with 32, of 32 s on with
        17 minutes of audio; other devices get a multiple of 128 each, which is how many a TPU has
        side by side: 512 of 2 s; of segments of 16 s on 17 minutes of audio, too.
        """
        if not batch_size and parallel.platform_of(self.mesh) == "cpu":
            batch_size = min(CPU_BATCH, max(int(DEVICE_SECONDS / seconds), 1))
        if not batch_size:
            each = DEVICE_SECONDS / seconds
            blocks = round(each / TPU_LANES)  # of long clips not even one fits
            return (blocks * TPU_LANES or max(int(each), 1)) * self.mesh.size
        return -(-batch_size // self.mesh.size) * self.mesh.size

    def __call__(
        self, batches: Iterable[Batch], padded: Collection[int] = ()
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yields (batch, float32 [real rows, ...]), what the program gives, batch by batch.

        See `compute_ahead`. padded: lengths, in samples, of which nearly all batches have padding:
        they need one program each.
        """

        def program(batch: Batch, inputs: dict[str, jax.Array]) -> jax.Array:
            num_samples = batch["audio"].shape[1]
            is_short = batch["num_samples"] < num_samples
            has_padding = num_samples in padded or bool(is_short[batch["weight"] > 0].any())
            return self._programs[has_padding](self.network, inputs["audio"], inputs["num_samples"])

        return compute_ahead(program, batches, self.mesh)


def compute_ahead(
    program: Callable[[Batch, dict[str, jax.Array]], jax.Array],
    batches: Iterable[Batch],
    mesh: Mesh,
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yields (batch, program(batch, its audio and num_samples on the devices)).

    Rows of weight 0 are left out of both. While a batch is computed the next one is read and put on
    the devices.
    """

    def put(batch: Batch) -> tuple[Batch, dict[str, jax.Array]]:
        inputs = {k: batch[k] for k in ("audio", "num_samples")}
        return batch, parallel.put_batch(inputs, mesh)

    made = parallel.prefetch(batches, put)
    for batch, result in parallel.compute_in_order(made, program, alone=mesh.size == 1):
        yield select_real_rows(batch), parallel.local_rows(result)[batch["weight"] > 0]


def select_real_rows(batch: Batch) -> Batch:
    """Leaves out rows of weight 0."""
    is_real = batch["weight"] > 0
    return {name: values[is_real] for name, values in batch.items()}
