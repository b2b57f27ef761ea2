"""Options and metadata that all exported formats share."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import psl_jax
from psl_jax.networks.trained_model import Model

# An exported model in its own runtime: waveforms float32 [batch, samples] in [-1, 1], or log-mel
# spectrograms [batch, frames, bands], to probabilities of clips [batch, classes] and of frames
# [batch, frames, classes].
Runner = Callable[[np.ndarray], Sequence[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of an export."""

    waveform: bool = True  # it takes audio; else log-mel spectrograms, for runtimes without an FFT
    quantize: bool = False  # weights are stored as 8-bit integers (tflite)


def describe(model: Model, options: Options, licence: str | None) -> dict[str, Any]:
    """Collects the facts that an exported model carries, as JSON values."""
    logmel = model.info.logmel.exported()
    optional_facts: dict[str, Any] = {} if licence is None else {"licence": licence}
    if model.info.thresholds is not None:
        optional_facts["thresholds"] = model.info.thresholds.as_json(model.classes)
    return optional_facts | {
        **model.info.network_as_json(),
        "format_version": model.info.format_version,
        "name": model.info.name,
        "classes": list(model.classes),
        "width": model.info.width,
        "output": model.info.output,
        "sample_rate": model.info.sample_rate,
        "segment_seconds": model.info.segment_seconds,
        "frontend": {"top_db": logmel.top_db, "top_db_over": logmel.top_db_over},
        "input": "waveform" if options.waveform else "logmel",
        **model.info.front_end.sizes(),
        "quantized": options.quantize,
        "config_digest": model.info.origin.get("config_digest"),
        "model_digest": model.digest,
        "producer": f"psl_jax {psl_jax.__version__}",
    }
