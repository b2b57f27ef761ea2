"""An audio tagger in PyTorch: waveforms in, probabilities of sound classes out.

This file needs PyTorch alone. In a published folder it lies beside the weights:

    from audio_tagger import AudioTagger

    model = AudioTagger.from_folder(".")
    clip, frames = model(waveforms)  # [batch, samples] at 16 kHz, in [-1, 1]
    model.labels[clip[0].argmax()]

The network is MobileNetV2 (Sandler et al., 2018) on log-mel spectrograms, with a frame of output
every 0.32 s. All rows of a batch are whole waveforms: padding is heard as silence.
"""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

SAMPLE_RATE = 16_000
WINDOW, HOP, MELS = 512, 160, 64
FRAME_SECONDS = 0.32

# (expansion, channels, repeats, stride) of the inverted residuals.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM, _HEAD = 32, 1280


class AudioTagger(nn.Module):
    """The network with its front end; load weights with `from_folder` or `load_state_dict`.

    Attributes:
      labels: names of the classes, where they are known.
      thresholds: from which score on each counts as heard, where they are known.
    """

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        top_db: float | None = 120.0,
        labels: Sequence[str] = (),
        thresholds: Sequence[float] = (),
        output: str = "sigmoid",
    ):
        """width: multiplier of the channels. top_db: dynamic range of each row; None: all of it.

        output: sigmoid, or softmax for one sound at a time.
        """
        super().__init__()
        self.output = output
        self.labels, self.thresholds = tuple(labels), tuple(thresholds)
        self.front_end = nn.ModuleList([_LogMel(top_db)])
        channels = _scaled(_STEM, width)
        layers: list[nn.Module] = [_convolution(1, channels, 3, 2)]
        for expansion, wide, repeats, stride in _STAGES:
            for repeat in range(repeats):
                outputs = _scaled(wide, width)
                layers.append(_Block(channels, outputs, expansion, 1 if repeat else stride))
                channels = outputs
        head = _scaled(_HEAD, max(width, 1.0))
        layers.append(_convolution(channels, head, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(head, num_classes))

    @classmethod
    def from_folder(cls, folder: str | pathlib.Path, name: str = "model.pt") -> "AudioTagger":
        """The model of a published folder, ready for use: weights, labels and thresholds."""
        path = pathlib.Path(folder) / name
        known = json.loads(pathlib.Path(f"{path}.json").read_text())
        front, tuned = known["frontend"], known.get("thresholds")
        labels = known["classes"]
        model = cls(
            len(labels),
            known["width"],
            None if front.get("top_db_over") == "none" else front["top_db"],
            labels,
            [tuned["by_class"][label] for label in labels] if tuned else (),
            known.get("output", "sigmoid"),
        )
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return model.eval()

    def forward(self, waveforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities of clips [batch, classes], and of frames [batch, frames, classes].

        waveforms: [batch, samples] in [-1, 1], 16 kHz, at least 257 samples.
        """
        values = self.classifier(self.embed(waveforms))
        frames = values.softmax(-1) if self.output == "softmax" else values.sigmoid()
        return frames.mean(1), frames

    def embed(self, waveforms: torch.Tensor) -> torch.Tensor:
        """What the classifier sees: [batch, frames, 1280]."""
        x = self.features(self.front_end[0](waveforms)[:, None])  # [batch, 1280, bands, frames]
        return x.mean(2).transpose(1, 2)


class _LogMel(nn.Module):
    """[batch, samples] to [batch, 64, frames] in dB."""

    def __init__(self, top_db: float | None):
        super().__init__()
        self.top_db = top_db
        self.spectrogram, self.mel_scale = nn.Module(), nn.Module()
        self.spectrogram.register_buffer("window", torch.hann_window(WINDOW))
        self.mel_scale.register_buffer("fb", _mel_filters())

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        window: Any = self.spectrogram.window
        spectrum = torch.stft(
            waveforms,
            WINDOW,
            HOP,
            window=window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )  # [batch, 257, frames]
        power = torch.view_as_real(spectrum).square().sum(-1)
        filters: Any = self.mel_scale.fb
        decibel = 10 * (filters.T @ power).clamp(min=1e-10).log10()
        if self.top_db is None:
            return decibel
        return decibel.maximum(decibel.amax((1, 2), keepdim=True) - self.top_db)


class _Block(nn.Module):
    """An inverted residual."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int):
        super().__init__()
        wide = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        layers: list[nn.Module] = [] if expansion == 1 else [_convolution(inputs, wide, 1)]
        layers += [
            _convolution(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return x + y if self.shortcut else y


def _convolution(
    inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    convolution = nn.Conv2d(
        inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


def _scaled(channels: int, width: float) -> int:
    divisor = 8 if width >= 0.25 else 4
    target = channels * width
    rounded = max(divisor, int(target + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * target else rounded


def _mel_filters() -> torch.Tensor:
    """Triangles of equal width on the HTK mel scale up to 8 kHz: [257, 64]."""
    top = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    mels = torch.linspace(0, top, MELS + 2, dtype=torch.float64)
    corners = 700 * (10 ** (mels / 2595) - 1)
    bins = torch.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()
