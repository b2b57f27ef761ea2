"""What the exported formats share: their options and what travels with a model."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import psl_jax
from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.networks.frontend import HOP, NUM_MELS, WINDOW
from psl_jax.networks.trained_model import Model, exported_logmel

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


def describe(model: Model, options: Options, licence: str | None) -> dict[str, Any]:
    """What travels with an exported model, as JSON values."""
    logmel = exported_logmel(model)
    known: dict[str, Any] = {} if licence is None else {"licence": licence}
    if model.info.thresholds is not None:
        known["thresholds"] = model.info.thresholds.as_json(model.classes)
    return known | {
        "format_version": model.info.format_version,
        "name": model.info.name,
        "classes": list(model.classes),
        "width": model.info.width,
        "output": model.info.output,
        "sample_rate": SAMPLE_RATE,
        "segment_seconds": model.info.segment_seconds,
        "frontend": {"top_db": logmel.top_db, "top_db_over": logmel.top_db_over},
        "input": "waveform" if options.waveform else "logmel",
        "window_samples": WINDOW,
        "hop_samples": HOP,
        "mel_bands": NUM_MELS,
        "quantized": options.quantize,
        "config_digest": model.info.origin.get("config_digest"),
        "model_digest": model.digest,
        "producer": f"psl_jax {psl_jax.__version__}",
    }
