"""Training from a split that is held in the devices' memory, several steps for each dispatch.

The host then sends only which segments a batch is made of. The batches are those of the stream,
results differ by float32 rounding. It saves the transfer of audio and the time between steps, which
counts where a step takes milliseconds.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from psl_jax.audio.segments import REFLECTED_SAMPLES, SAMPLE_RATE, Segmentation
from psl_jax.data import batches
from psl_jax.data.sampling import sequential_windows
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.sources import Source
from psl_jax.data.time_shift import reflect_end
from psl_jax.model.mobilenetv2 import Network
from psl_jax.runtime import parallel, progress
from psl_jax.runtime.errors import UserError
from psl_jax.training.step import Recipe, TrainState, step_function

_MOST_OF_MEMORY = 0.8  # of a device; the rest is for the training step


class ResidentSplit(NamedTuple):
    """A split on the devices, the whole of it on each: a pytree.

    audio: int16 [clips, samples], zeros after a clip's end.
    weak: uint8 [clips, classes], the multi-hot weak labels.
    soft: float16 [clips, segments, classes]; None where weak labels are the target.
    """

    audio: jax.Array
    weak: jax.Array
    soft: jax.Array | None


def load(
    source: Source, segmentation: Segmentation, soft_labels: SoftLabels | None, mesh: Mesh
) -> ResidentSplit:
    """Reads a whole split onto each device of `mesh`, window by window.

    Raises UserError where the devices' memory is too small for it, saying how much is needed.
    """
    index = source.index
    clips, classes = len(index), index.num_classes
    segments = int(segmentation.counts(index.num_samples).max(initial=1))
    hop, size = segmentation.hop_samples, segmentation.segment_samples
    samples = max(index.clip_samples, (segments - 1) * hop + size)  # all segments lie inside
    audio_bytes, label_bytes = 2 * clips * samples, clips * classes
    if soft_labels is not None:
        label_bytes += 2 * clips * segments * classes
    _check_memory(mesh, audio_bytes + label_bytes, index.split)

    sharding = NamedSharding(mesh, parallel.REPLICATED)
    zeros = jax.jit(jnp.zeros, static_argnums=(0, 1), out_shardings=sharding)
    audio = zeros((clips, samples), "int16")
    soft = None if soft_labels is None else zeros((clips, segments, classes), "float16")
    whole = Segmentation(max(index.clip_samples, 1) / SAMPLE_RATE)
    show = jax.process_index() == 0
    with progress.bar(clips, "clip", f"{index.split} to the devices", show=show) as bar:
        windows = sequential_windows(index, whole)
        for loaded, labels in batches.read_labelled(source, windows, soft_labels):
            first = int(loaded.window.clips[0])  # in index order, so a window is one stretch
            rows = np.zeros((len(loaded.window.clips), samples), np.int16)
            lengths = index.num_samples[loaded.window.clips].tolist()
            for row, found, length in zip(rows, loaded.rows, lengths, strict=True):
                row[: len(found)] = found[:samples]
                reflect_end(row, length)
            audio = _write(audio, parallel.replicate(rows, mesh), first)
            if soft is not None and labels is not None:
                soft = _write(soft, parallel.replicate(labels[:, :segments], mesh), first)
            bar.update(len(rows))
    weak = parallel.replicate(index.weak_labels().astype(np.uint8), mesh)
    return ResidentSplit(audio, weak, soft)


@partial(jax.jit, donate_argnums=0)
def _write(array: jax.Array, rows: jax.Array, first: int) -> jax.Array:
    return jax.lax.dynamic_update_slice(array, rows, (first,) + (0,) * (array.ndim - 1))


def _check_memory(mesh: Mesh, needed: int, split: str) -> None:
    # A CPU tells none.
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in mesh.local_devices]
    limit = min((limit for limit in limits if limit), default=None)
    if limit is not None and needed > _MOST_OF_MEMORY * limit:
        raise UserError(
            f"split {split!r} takes {needed / 1e9:.1f} GB on each device, which has "
            f"{limit / 1e9:.1f} GB; give --config.train.resident=false to stream it instead"
        )


@lru_cache
def resident_program(
    network: Network,
    recipe: Recipe,
    segmentation: Segmentation,
    alpha: float,
    mesh: Mesh,
    shifted: bool = False,
) -> Callable:
    """The jitted (split, state, steps, rates, count) -> (state, values); the old state is donated.

    steps: the `batches.ENTRIES` of several steps, as `parallel.put_steps` puts them; rates: their
    learning rates; count: how many of them are to be made. The values are means over those.
    Where the recipe has a teacher, its folded network is the last argument.
    Labels are made as in `batches.train_batches`. shifted: the entries' shifts are not all zero.
    """
    step = step_function(network, recipe, parallel.platform_of(mesh))

    def run(
        split: ResidentSplit,
        state: TrainState,
        steps: dict[str, jax.Array],
        rates: jax.Array,
        count: jax.Array,
        teacher: Any = None,
    ):
        def make(i: jax.Array | int, state: TrainState):
            entries = {name: steps[name][i] for name in batches.ENTRIES}
            batch = _batch(split, entries, segmentation, alpha, shifted)
            return step(state, batch, rates[i], teacher)

        def make_another(i: jax.Array, carry):
            state, sums = carry
            state, values = make(i, state)
            return state, jax.tree.map(jnp.add, sums, values)

        values = jax.eval_shape(make, 0, state)[1]
        carry = state, jax.tree.map(lambda value: jnp.zeros(value.shape, value.dtype), values)
        state, sums = jax.lax.fori_loop(0, count, make_another, carry)
        return state, jax.tree.map(lambda total: total / count, sums)

    once = parallel.REPLICATED
    specs = (once, once, parallel.STEPS, once, once, *[once] * (recipe.teacher is not None))
    return parallel.data_parallel(
        run, mesh, specs, parallel.REPLICATED, donate=(1,), fast_math=True
    )


def _batch(
    split: ResidentSplit,
    entries: dict[str, jax.Array],
    segmentation: Segmentation,
    alpha: float,
    shifted: bool = False,
) -> dict[str, jax.Array]:
    """The batch that `batches.train_batches` makes of the same entries."""
    clip, segment = entries["clip"], entries["segment"]
    size = segmentation.segment_samples

    def cut(clip: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(split.audio, (clip, start), (1, size))[0]

    labels = split.weak[clip].astype(jnp.float32)
    if split.soft is not None:
        soft = split.soft[clip, segment].astype(jnp.float32)
        labels = soft if alpha == 1 else alpha * soft + (1 - alpha) * labels
    audio = jax.vmap(cut)(clip, segment * segmentation.hop_samples)
    if shifted:
        audio = jax.vmap(_rolled)(audio, entries["num_samples"], entries["shift"])
    return {"audio": audio, "num_samples": entries["num_samples"], "labels": labels}


def _rolled(row: jax.Array, length: jax.Array, shift: jax.Array) -> jax.Array:
    """`time_shift.roll_rows` of one row [samples]."""
    place = jnp.arange(len(row))
    reflected = jnp.clip(length - 2, 0, REFLECTED_SAMPLES)
    inside = jnp.where(place < length, place, 2 * (length - 1) - place)
    source = jnp.where(place < length + reflected, (inside - shift) % length, place)
    return row[source]
