"""What the exported formats share: their options and what travels with a model."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import psl_jax
from psl_jax.checkpoints import Model
from psl_jax.frontend import HOP, NUM_MELS, WINDOW, LogMel
from psl_jax.segments import SAMPLE_RATE

# An exported model in its own runtime: waveforms float32 [batch, samples] in [-1, 1], or log-mel
# spectrograms [batch, frames, 64], to clip probabilities [batch, classes] and frame probabilities
# [batch, frames, classes].
Runner = Callable[[np.ndarray], Sequence[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Options:
    """How to export.

    waveform: the input is audio; else the log-mel spectrogram, for runtimes without an FFT.
    quantize: weights as 8-bit integers (tflite).
    """

    waveform: bool = True
    quantize: bool = False


def exported_logmel(model: Model) -> LogMel:
    """The front end inside an export, for any machine and any batch.

    A dynamic range over a "batch" becomes one over each clip, so that a clip's probabilities do not
    depend on what else is in its batch; an "auto" FFT is one in float32, which all runtimes have.
    """
    logmel = LogMel(**model.info["frontend"])
    over = "clip" if logmel.top_db_over == "batch" else logmel.top_db_over
    fft = "float32" if logmel.fft == "auto" else logmel.fft
    return dataclasses.replace(logmel, top_db_over=over, fft=fft)


def describe(model: Model, options: Options, licence: str) -> dict[str, Any]:
    """What travels with an exported model, as JSON values."""
    logmel = exported_logmel(model)
    return {
        "name": str(model.info.get("name", "")),
        "classes": list(model.classes),
        "width": model.info["width"],
        "sample_rate": SAMPLE_RATE,
        "segment_seconds": float(model.info["segment_seconds"]),
        "frontend": {"top_db": logmel.top_db, "top_db_over": logmel.top_db_over},
        "input": "waveform" if options.waveform else "logmel",
        "window_samples": WINDOW,
        "hop_samples": HOP,
        "mel_bands": NUM_MELS,
        "quantized": options.quantize,
        "config_digest": model.info.get("config_digest"),
        "model_digest": model.digest,
        "licence": licence,
        "producer": f"psl_jax {psl_jax.__version__}",
    }


def sidecar(path: str | os.PathLike) -> pathlib.Path:
    """The JSON file beside an exported model whose format has no place for `describe`."""
    return pathlib.Path(f"{os.fspath(path)}.json")
