"""Tags audio in PyTorch: takes waveforms, and returns probabilities of sound classes.

This file needs PyTorch alone. In a published folder it lies beside the weights:

    from audio_tagger import AudioTagger

    model = AudioTagger.from_folder(".")
    clip, frames = model(waveforms)  # [batch, samples] at 16 kHz, in [-1, 1]
    model.labels[clip[0].argmax()]

The network is MobileNetV2 (Sandler et al., 2018) on log-mel spectrograms, with a frame of output
every 0.32 s. All rows of a batch are whole waveforms: the network takes padding for silence.
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
      thresholds: the lowest score with which each class counts as present, where they are known.
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
        """Makes a network with random weights.

        Args:
          num_classes: number of classes.
          width: multiplier of the channels.
          top_db: dynamic range of each row in dB; None keeps all of it.
          labels, thresholds: see the class.
          output: sigmoid, or softmax for one sound at a time.
        """
        super().__init__()
        self.output = output
        self.labels, self.thresholds = tuple(labels), tuple(thresholds)
        self.front_end = nn.ModuleList([_LogMel(top_db)])
        channels = _scale_channels(_STEM, width)
        layers: list[nn.Module] = [_make_convolution(1, channels, size=3, stride=2)]
        for expansion, stage_channels, repeats, stride in _STAGES:
            for repeat in range(repeats):
                outputs = _scale_channels(stage_channels, width)
                layers.append(_Block(channels, outputs, expansion, 1 if repeat else stride))
                channels = outputs
        head = _scale_channels(_HEAD, max(width, 1.0))
        layers.append(_make_convolution(channels, head, size=1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(head, num_classes))

    @classmethod
    def from_folder(cls, folder: str | pathlib.Path, name: str = "model.pt") -> "AudioTagger":
        """Reads the model of a published folder: weights, labels and thresholds."""
        path = pathlib.Path(folder) / name
        info = json.loads(pathlib.Path(f"{path}.json").read_text())
        frontend, thresholds_info = info["frontend"], info.get("thresholds")
        labels = info["classes"]
        model = cls(
            len(labels),
            info["width"],
            None if frontend.get("top_db_over") == "none" else frontend["top_db"],
            labels,
            [thresholds_info["by_class"][label] for label in labels] if thresholds_info else (),
            info.get("output", "sigmoid"),
        )
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return model.eval()

    def forward(self, waveforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes probabilities of clips [batch, classes], and of frames [batch, frames, classes].

        waveforms: [batch, samples] in [-1, 1], 16 kHz, at least 257 samples.
        """
        values = self.classifier(self.embed(waveforms))
        frames = values.softmax(-1) if self.output == "softmax" else values.sigmoid()
        return frames.mean(1), frames

    def embed(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Computes the inputs of the classifier: [batch, frames, 1280]."""
        x = self.features(self.front_end[0](waveforms)[:, None])  # [batch, 1280, bands, frames]
        means: torch.Tensor = x.mean(2).transpose(1, 2)
        return means


class _LogMel(nn.Module):
    """Log-mel front end: [batch, samples] to [batch, 64, frames] in dB."""

    def __init__(self, top_db: float | None):
        super().__init__()
        self.top_db = top_db
        self.spectrogram, self.mel_scale = nn.Module(), nn.Module()
        self.spectrogram.register_buffer("window", torch.hann_window(WINDOW))
        self.mel_scale.register_buffer("fb", _compute_mel_filters())

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
        decibels: torch.Tensor = 10 * (filters.T @ power).clamp(min=1e-10).log10()
        if self.top_db is None:
            return decibels
        return decibels.maximum(decibels.amax((1, 2), keepdim=True) - self.top_db)


class _Block(nn.Module):
    """An inverted residual."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int):
        super().__init__()
        hidden = inputs * expansion
        self.has_shortcut = stride == 1 and inputs == outputs
        layers: list[nn.Module] = (
            [] if expansion == 1 else [_make_convolution(inputs, hidden, size=1)]
        )
        layers += [
            _make_convolution(hidden, hidden, size=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return x + y if self.has_shortcut else y


def _make_convolution(
    inputs: int, outputs: int, *, size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    convolution = nn.Conv2d(
        inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


def _scale_channels(channels: int, width: float) -> int:
    divisor = 8 if width >= 0.25 else 4
    target = channels * width
    rounded = max(divisor, int(target + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * target else rounded


def _compute_mel_filters() -> torch.Tensor:
    """Computes triangles of equal width on the HTK mel scale up to 8 kHz: [257, 64]."""
    top = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    mels = torch.linspace(0, top, MELS + 2, dtype=torch.float64)
    corners = 700 * (10 ** (mels / 2595) - 1)
    bins = torch.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()
