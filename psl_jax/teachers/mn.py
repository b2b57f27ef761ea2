"""EfficientAT's mn as a teacher: jitted, over all devices."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from psl_jax.networks import class_lists
from psl_jax.networks.batch_chunks import in_parts
from psl_jax.networks.convolutions import map_dtype
from psl_jax.networks.frontend import zeros_after
from psl_jax.runtime import parallel, processor
from psl_jax.scoring.scorer import DeviceScorer
from psl_jax.teachers import mn_frontend, mn_network, mn_weights
from psl_jax.teachers.mn_network import MnNetwork
from psl_jax.teachers.teacher import AUDIOSET_SECONDS, ScoringOptions, make_description


@lru_cache
def scoring_program(
    network: MnNetwork, dtype: str, mesh: Mesh, padded: bool = False, count_padding: bool = False
) -> Callable:
    """(arrays, audio int16 [batch, samples] at 16 kHz, num_samples) -> probabilities, jitted.

    padded: rows may end in padding, which has no influence. count_padding: it is audio, of zeros.
    """
    platform = parallel.platform_of(mesh)
    products = jnp.dtype(processor.dtype_on(platform, dtype))

    def score(arrays: Any, audio: jax.Array, num_samples: jax.Array) -> jax.Array:
        def rows(inputs: Any) -> jax.Array:
            audio, valid = inputs
            at_rate = None if valid is None else 2 * valid
            features = mn_frontend.log_mel(mn_frontend.doubled(audio, valid), at_rate, platform)
            frames = None if at_rate is None else mn_frontend.num_frames(at_rate)
            return network.logits(arrays, features, frames, products, platform)

        if count_padding:
            audio = zeros_after(audio, num_samples)
        inputs = audio, num_samples if padded else None
        # A CPU takes a few rows from their audio to their logits, all of which stay in its cache.
        frames = mn_frontend.num_frames(2 * audio.shape[1])
        maps = map_dtype(products, platform)
        size = mn_network.largest_map(arrays, frames, mn_frontend.NUM_MELS, maps)
        return jax.nn.sigmoid(in_parts(rows, inputs, size, platform))

    specs = (parallel.REPLICATED, parallel.SPLIT, parallel.SPLIT)
    return parallel.data_parallel(score, mesh, specs, parallel.SPLIT)


@dataclasses.dataclass(frozen=True)
class MnTeacher:
    """See `Teacher`."""

    name: str
    classes: tuple[str, ...]
    network: MnNetwork
    arrays: Any
    width: float
    digest: str

    rate = mn_frontend.RATE
    context_seconds = None
    segment_seconds = AUDIOSET_SECONDS

    def describe(self) -> list[dict[str, Any]]:
        return [make_description(self, "mn") | {"width": self.width}]

    def summarize(self) -> str:
        parameters = sum(array.size for array in jax.tree.leaves(self.arrays))
        return (
            f"{self.name}: EfficientAT mn of width {self.width:g}, {parameters:,} parameters, "
            f"{self.rate / 1000:g} kHz, digest {self.digest}, {len(self.classes)} classes"
        )

    def make_scorer(self, running: ScoringOptions) -> DeviceScorer:
        mesh, counted = parallel.local_mesh(running.num_devices), running.count_padding

        def program(padded: bool) -> Callable:
            padded = padded and not counted
            return scoring_program(self.network, running.dtype, mesh, padded, counted)

        return DeviceScorer(mesh, self.arrays, program)


def load(path: str) -> MnTeacher:
    """The teacher of published weights. Raises UserError."""
    network, arrays, width = mn_weights.read(path)
    outputs = len(arrays["classifier"]["bias"])
    file = pathlib.Path(path)
    return MnTeacher(
        file.stem,
        class_lists.classes_beside(path, outputs),
        network,
        arrays,
        width,
        hashlib.sha256(file.read_bytes()).hexdigest()[:16],
    )
