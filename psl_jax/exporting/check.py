"""Whether an exported model gives the probabilities of the Flax model."""

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np

from psl_jax.audio import audio_input
from psl_jax.audio.decoding import DecodeError
from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.data import batches
from psl_jax.data.settings import DataSettings
from psl_jax.exporting.export_options import Runner
from psl_jax.networks.forward_context import Context
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.mobilenetv2 import Network, Variables, clip_probabilities
from psl_jax.networks.trained_model import Model, exported_logmel
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of

BATCHES = (1, 7)
LENGTHS = (4_800, 54_321)  # samples, besides a segment: 0.3 s, and an odd number
_MAX_SECONDS = 60.0  # of a file: more would be audio of the same kind


@lru_cache
def flax_program(network: Network, logmel: LogMel):
    """The jitted (variables, waveforms) -> log-mel, clip and frame probabilities."""

    @jax.jit
    def run(variables: Variables, audio: jax.Array):
        features = logmel(audio)
        frames, _ = network.apply(variables, features, Context())
        return features, clip_probabilities(frames), frames

    return run


def flax_runner(model: Model) -> Runner:
    """The Flax network itself, for waveforms."""
    program = flax_program(model.network, exported_logmel(model))
    return lambda audio: [np.asarray(x) for x in program(model.variables, audio)[1:]]


class Differences(NamedTuple):
    """Between exported and Flax model, in probability, of clips and frames."""

    worst: float
    mean: float


def differences(
    runner: Runner, model: Model, signals: Sequence[np.ndarray], waveform: bool = True
) -> Differences:
    """How an exported model differs from the Flax model, over batches of 1 and 7 and lengths.

    Args:
      runner: the exported model in its own runtime.
      model: what it was made from.
      signals: float32 [samples] each, of any length.
      waveform: whether the exported model takes waveforms, or log-mel spectrograms.

    Raises UserError where shapes are wrong or probabilities are not finite.
    """
    program = flax_program(model.network, exported_logmel(model))
    found: list[np.ndarray] = []
    for audio in excerpts(signals, model.info.segment_seconds):
        features, *expected = map(np.asarray, program(model.variables, audio))
        for rows in BATCHES:
            outputs = runner(audio[:rows] if waveform else features[:rows])
            for name, ours, theirs in zip(("clip", "frame"), expected, outputs, strict=True):
                if theirs.shape != ours[:rows].shape or not np.isfinite(theirs).all():
                    raise UserError(
                        f"the exported model gave {name} probabilities of shape {theirs.shape} for "
                        f"{rows} waveforms of {audio.shape[1]} samples, expected finite ones of "
                        f"shape {ours[:rows].shape}"
                    )
                found.append(np.abs(theirs - ours[:rows]).ravel())
    together = np.concatenate(found)
    return Differences(float(together.max()), float(together.mean()))


def excerpts(signals: Sequence[np.ndarray], segment_seconds: float) -> Iterator[np.ndarray]:
    """float32 [7, samples] for each length: parts of all signals, in turn and further on."""
    for length in (*LENGTHS, round(segment_seconds * SAMPLE_RATE)):
        rows = []
        for number in range(max(BATCHES)):
            turn, which = divmod(number, len(signals))
            start = (turn + 1) * length // 2 % max(len(signals[which]) - length, 1)
            rows.append(np.resize(signals[which][start:], length))
        yield np.stack(rows)


def read_signals(paths: Sequence[str]) -> list[np.ndarray]:
    """The first minute of audio files: float32 [samples] each. Raises UserError for a bad one."""
    signals = []
    for path in paths:
        blocks, seconds = [], 0.0
        try:
            for block in audio_input.blocks_of(path)():
                blocks.append(block)
                seconds += len(block) / SAMPLE_RATE
                if seconds >= _MAX_SECONDS:
                    break
        except DecodeError as error:
            raise UserError(f"--audio={path}: {error}") from error
        signals.append(np.concatenate(blocks).astype(np.float32) / 32768)
    return signals


def synthetic_signal(seconds: float = 10.0) -> np.ndarray:
    """Noise, tones that glide, bursts and near-silence over 60 dB: float32 [samples]."""
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound = 0.002 * rng.standard_normal(len(time))
    for start in np.arange(0, seconds, 0.4):
        inside = (time >= start) & (time < start + rng.uniform(0.1, 0.8))
        pitch, glide = rng.uniform(100, 6000), rng.uniform(-500, 500)
        level = 10 ** rng.uniform(-2.5, -0.5)
        tone = np.sin(2 * np.pi * (pitch + glide * (time - start)) * time)
        sound += inside * level * (tone if rng.random() < 0.6 else rng.standard_normal(len(time)))
    # Whole 16-bit steps, as in files: digital silence between pure tones is no audio that exists.
    return (np.rint(np.clip(sound, -1, 1) * 32767) / 32768).astype(np.float32)


def own_signals(run: str | os.PathLike, count: int = max(BATCHES)) -> list[np.ndarray]:
    """Evaluation clips of the data that a run was trained on; none where it is not found."""
    from psl_jax.data.source import Source
    from psl_jax.runtime.run_files import CONFIG

    folder = path_of(run)
    if not (folder / CONFIG).exists():
        return []
    data = DataSettings(**files.read_json(folder / CONFIG)["data"])
    places = [path_of(data.data_dir)] if data.data_dir else []
    for near in (folder / "data", folder.parent / "data"):
        places += sorted(path.parent for path in near.rglob("dataset_info.json"))
    for place in places:
        try:
            source = Source.open(os.fspath(place), data.eval_split)
        except (UserError, OSError):
            continue
        whole = Segmentation(source.index.clip_samples / SAMPLE_RATE)
        batch = next(batches.eval_batches(source, whole, batch_size=count), None)
        if batch is not None:
            rows = zip(batch["audio"], batch["num_samples"], batch["weight"], strict=True)
            return [row[:n].astype(np.float32) / 32768 for row, n, weight in rows if weight]
    return []
