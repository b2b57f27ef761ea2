"""The network as a PyTorch state dict with the published names, and in PyTorch itself.

Nothing is folded here: the published network loads the file strictly.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from psl_jax.exporting.export_options import Options, Runner
from psl_jax.model import batch_norm, mobilenetv2
from psl_jax.model.frontend import AMIN, HOP, WINDOW, LogMel, hann, mel_filters
from psl_jax.model.model import Model
from psl_jax.runtime import files
from psl_jax.weights import pytorch_file
from psl_jax.weights.pytorch_file import sidecar


def write(path: pathlib.Path, model: Model, info: Mapping[str, Any], options: Options) -> None:
    """Writes the state dict, and `info` beside it: a state dict holds only tensors."""
    pytorch_file.write(path, pytorch_file.to_state(model.variables))
    files.write_json(sidecar(path), dict(info))


def load(path: pathlib.Path) -> Runner:
    """The file in PyTorch, on the CPU."""
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    described = files.read_json(sidecar(path))
    logmel, output = LogMel(**described["frontend"]), described.get("output", "sigmoid")

    def run(audio: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            values = _frame_values(torch, state, _log_mel(torch, audio, logmel))
            frames = values.softmax(-1) if output == "softmax" else values.sigmoid()
            return [frames.mean(1).numpy(), frames.numpy()]

    return run


def _log_mel(torch: Any, audio: np.ndarray, logmel: LogMel) -> Any:
    """[batch, samples] to [batch, 64, frames] in dB."""
    spectrum = torch.stft(
        torch.from_numpy(audio),
        WINDOW,
        HOP,
        window=torch.from_numpy(hann()),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )  # [batch, 257, frames]
    power = torch.view_as_real(spectrum).square().sum(-1)
    decibel = 10 * (torch.from_numpy(mel_filters()).T @ power).clamp(min=AMIN).log10()
    if logmel.top_db_over == "none":
        return decibel
    return decibel.maximum(decibel.amax((1, 2), keepdim=True) - logmel.top_db)


def _frame_values(torch: Any, state: Mapping[str, Any], logmel: Any) -> Any:
    """[batch, 64, frames] to the classifier's values [batch, output frames, classes].

    By the published names alone.
    """
    functional = torch.nn.functional

    def layer(x, convolution, norm, **settings):
        x = functional.conv2d(x, state[f"{convolution}.weight"], **settings)
        names = ("running_mean", "running_var", "weight", "bias")
        moments = (state[f"{norm}.{name}"] for name in names)
        return functional.batch_norm(x, *moments, training=False, eps=batch_norm.EPSILON)

    relu6 = functional.relu6
    x = relu6(layer(logmel[:, None], "features.0.0", "features.0.1", stride=2, padding=1))
    number = 0
    for expansion, _, repeats, first_stride in mobilenetv2.INVERTED_RESIDUALS:
        for repeat in range(repeats):
            number += 1
            at, stride = f"features.{number}.conv", 1 if repeat else first_stride
            y, stage = x, 0
            if expansion > 1:
                y, stage = relu6(layer(x, f"{at}.0.0", f"{at}.0.1")), 1
            depthwise = {"stride": stride, "padding": 1, "groups": y.shape[1]}
            y = relu6(layer(y, f"{at}.{stage}.0", f"{at}.{stage}.1", **depthwise))
            y = layer(y, f"{at}.{stage + 1}", f"{at}.{stage + 2}")
            x = x + y if stride == 1 and x.shape[1] == y.shape[1] else y
    x = relu6(layer(x, f"features.{number + 1}.0", f"features.{number + 1}.1"))
    x = x.mean(2).transpose(1, 2)  # over bands
    classifier = (state[f"classifier.1.{name}"] for name in ("weight", "bias"))
    return functional.linear(x, *classifier)
