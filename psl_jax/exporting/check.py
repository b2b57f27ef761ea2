"""Checks that an exported model gives the probabilities of the Flax model."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from psl_jax.audio import audio_input
from psl_jax.audio.segments import SAMPLE_RATE, flatten
from psl_jax.data.source import Source
from psl_jax.networks.architecture import FrontEnd, Network, Variables, clip_probabilities
from psl_jax.networks.layers import Context
from psl_jax.networks.trained_model import Model
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of
from psl_jax.runtime.run_files import read_config

# An exported model in its own runtime: waveforms float32 [batch, samples] in [-1, 1] to
# probabilities of clips [batch, classes] and of frames [batch, frames, classes].
Runner = Callable[[np.ndarray], Sequence[np.ndarray]]

EXPORTED = "gpu"  # whose front end exports have: with an FFT in float32, which all runtimes have
BATCH_SIZES = (1, 7)
EXCERPT_SAMPLES = (4_800, 54_321)  # samples, besides a segment: 0.3 s, and an odd number


@lru_cache
def compile_flax_program(network: Network, front_end: FrontEnd) -> Callable[..., Any]:
    """Jits the function (variables, waveforms) -> clip and frame probabilities."""

    @jax.jit
    def run(variables: Variables, audio: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = front_end(audio, platform=EXPORTED)
        frames, _ = network.apply(variables, features, Context())
        return clip_probabilities(frames), frames

    return run


def make_flax_runner(model: Model) -> Runner:
    """Makes a runner of the Flax network itself, for waveforms."""
    program = compile_flax_program(model.network, model.info.exported_front_end)
    return lambda audio: [np.asarray(x) for x in program(model.variables, audio)]


class Differences(NamedTuple):
    """Absolute differences in probability between exported and Flax model, of clips and frames."""

    worst: float
    mean: float


def compare_with_flax(
    runner: Runner, model: Model, *, signals: Sequence[np.ndarray]
) -> Differences:
    """Computes how an exported model differs from the Flax model, for several batches and lengths.

    signals: float32 [samples] each, of any length. Raises UserError where shapes are wrong or
    probabilities are not finite.
    """
    flax_runner = make_flax_runner(model)
    differences: list[np.ndarray] = []
    for audio in cut_excerpts(signals, model.info.segment_seconds, model.info.sample_rate):
        expected = flax_runner(audio)
        for batch_size in BATCH_SIZES:
            outputs = runner(audio[:batch_size])
            for name, flax_output, output in zip(("clip", "frame"), expected, outputs, strict=True):
                if output.shape != flax_output[:batch_size].shape or not np.isfinite(output).all():
                    raise UserError(
                        f"the exported model gave {name} probabilities of shape {output.shape} for "
                        f"{batch_size} waveforms of {audio.shape[1]} samples, expected finite ones "
                        f"of shape {flax_output[:batch_size].shape}"
                    )
                differences.append(np.abs(output - flax_output[:batch_size]).ravel())
    all_differences = np.concatenate(differences)
    return Differences(float(all_differences.max()), float(all_differences.mean()))


def cut_excerpts(
    signals: Sequence[np.ndarray], segment_seconds: float, rate: int = SAMPLE_RATE
) -> Iterator[np.ndarray]:
    """Yields float32 [7, samples] for each length: excerpts of all signals, at `rate`, in turn."""
    for num_samples in (*EXCERPT_SAMPLES, round(segment_seconds * rate)):
        excerpts = []
        for number in range(max(BATCH_SIZES)):
            repetition, signal = divmod(number, len(signals))
            start = (repetition + 1) * num_samples // 2 % max(len(signals[signal]) - num_samples, 1)
            excerpts.append(np.resize(signals[signal][start:], num_samples))
        yield np.stack(excerpts)


def make_synthetic_signal(seconds: float = 10.0, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Makes tones and bursts 10 to 50 dB below full scale, noise at -54: float32 [samples]."""
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * rate)) / rate
    sound = 0.002 * rng.standard_normal(len(time))
    for start in np.arange(0, seconds, 0.4):
        is_inside = (time >= start) & (time < start + rng.uniform(0.1, 0.8))
        pitch, glide = rng.uniform(100, 6000), rng.uniform(-500, 500)
        level = 10 ** rng.uniform(-2.5, -0.5)
        tone = np.sin(2 * np.pi * (pitch + glide * (time - start)) * time)
        sound += (
            is_inside * level * (tone if rng.random() < 0.6 else rng.standard_normal(len(time)))
        )
    # Rounded to 16 bits, as in files; finer values are no audio that a file holds.
    return np.asarray(np.rint(np.clip(sound, -1, 1) * 32767) / 32768, np.float32)


def read_evaluation_clips(run: str | os.PathLike[str], rate: int = SAMPLE_RATE) -> list[np.ndarray]:
    """Reads evaluation clips of the data that a run was trained on; none if that data is gone."""
    folder = path_of(run)
    if not (data := read_config(folder).get("data")):  # perhaps with settings of earlier versions
        return []
    folders = [path_of(data["data_dir"])] if data.get("data_dir") else []
    for data_folder in (folder / "data", folder.parent / "data"):
        folders += sorted(path.parent for path in data_folder.rglob("dataset_info.json"))
    for candidate in folders:
        try:
            source = Source.open(os.fspath(candidate), data["eval_split"])
        except (UserError, OSError):
            continue
        clips = source.read_whole(np.arange(min(max(BATCH_SIZES), len(source.index))))
        waveforms = [flatten(audio) for audio in clips]
        return [
            audio_input.resample(samples.astype(np.float32) / 32768, own_rate, rate).reshape(-1)
            for samples, own_rate in waveforms
        ]
    return []
