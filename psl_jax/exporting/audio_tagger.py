"""Tags audio in PyTorch: takes waveforms, and returns probabilities of sound classes.

This file needs PyTorch and safetensors. In a published folder it lies beside the weights:

    from audio_tagger import AudioTagger

    model = AudioTagger.from_folder(".")
    clip, frames = model(waveforms)  # [batch, samples] at model.sample_rate, in [-1, 1]
    model.labels[clip[0].argmax()]

The network is MobileNetV2 (Sandler et al., 2018) on log-mel spectrograms, with a frame of output
every 0.32 s, or EfficientAT's mn (Schmid et al., 2023), with one output for all of a waveform. All
rows of a batch are whole waveforms: the network takes padding for silence.
"""

import functools
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

SAMPLE_RATE = 16_000
FRAME_SECONDS = 0.32

# MobileNetV2: (expansion, channels, repeats, stride) of the inverted residuals.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# mn: (kernel, expanded, channels, squeeze-and-excitation, hard-swish, stride) of the blocks.
_BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


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
        network: str = "mobilenet_v2",
        sample_rate: int = SAMPLE_RATE,
    ):
        """Makes a network with random weights.

        Args:
          width: multiplier of the channels.
          top_db: dynamic range of each row in dB; None keeps all of it.
          output: sigmoid, or softmax for one sound at a time.
          network: mobilenet_v2 or mn.
          sample_rate: of the waveforms in Hz; of mn 16,000 or 32,000.
        """
        super().__init__()
        self.sample_rate = sample_rate
        self.output = output
        self.labels, self.thresholds = tuple(labels), tuple(thresholds)
        is_mn = network == "mn"
        self.has_frames = not is_mn
        self.front_end = nn.ModuleList([_MnLogMel(sample_rate) if is_mn else _LogMel(top_db)])
        make_layers = _make_mn if is_mn else _make_mobilenet_v2
        self.features, self.classifier = make_layers(num_classes, width)

    @classmethod
    def from_folder(
        cls, folder: str | pathlib.Path, name: str = "model.safetensors"
    ) -> "AudioTagger":
        """Reads the model of a published folder, or a .pt: weights, labels and thresholds."""
        path = pathlib.Path(folder) / name
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                metadata = {key: text for key, text in file.metadata().items() if key != "format"}
            info = {key: json.loads(text) for key, text in metadata.items()}
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
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
            info.get("network", "mobilenet_v2"),
            info["sample_rate"],
        )
        model.load_state_dict(state)
        return model.eval()

    def forward(self, waveforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes probabilities of clips [batch, classes], and of frames [batch, frames, classes].

        waveforms: [batch, samples] in [-1, 1], at least 257 samples, at 32 kHz 514.
        """
        values = self.classifier[-1](self.embed(waveforms))
        frames = values.softmax(-1) if self.output == "softmax" else values.sigmoid()
        return frames.mean(1), frames

    def embed(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Computes the inputs of the last layer: [batch, frames, channels]."""
        x = self.features(self.front_end[0](waveforms)[:, None])  # [batch, channels, bands, frames]
        means = x.mean(2).transpose(1, 2)
        means = means if self.has_frames else means.mean(1, keepdim=True)
        embedded: torch.Tensor = self.classifier[:-1](means)
        return embedded


def _make_mobilenet_v2(num_classes: int, width: float) -> tuple[nn.Sequential, nn.Sequential]:
    inputs = _scale_channels(32, width)
    layers: list[nn.Module] = [_make_convolution(1, inputs, 3, 2)]
    for expansion, stage_channels, repeats, stage_stride in _STAGES:
        outputs = _scale_channels(stage_channels, width)
        for stride in [stage_stride, *[1] * (repeats - 1)]:
            hidden = inputs * expansion
            block = [
                *([] if expansion == 1 else [_make_convolution(inputs, hidden)]),
                _make_convolution(hidden, hidden, 3, stride, groups=hidden),
                *_make_convolution(hidden, outputs, activation=None),
            ]
            layers.append(_Block("conv", block, stride == 1 and inputs == outputs))
            inputs = outputs
    head = _scale_channels(1280, max(width, 1.0))
    layers.append(_make_convolution(inputs, head))
    classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(head, num_classes))
    return nn.Sequential(*layers), classifier


def _make_mn(num_classes: int, width: float) -> tuple[nn.Sequential, nn.Sequential]:
    inputs = _scale_channels(16, width, divisor=8)
    layers: list[nn.Module] = [_make_mn_convolution(1, inputs, 3, 2, activation=nn.Hardswish)]
    for size, expanded, channels, is_squeezed, has_hard_swish, stride in _BLOCKS:
        hidden, outputs = (_scale_channels(x, width, divisor=8) for x in (expanded, channels))
        make = functools.partial(
            _make_mn_convolution, activation=nn.Hardswish if has_hard_swish else nn.ReLU
        )
        block: list[nn.Module] = [] if hidden == inputs else [make(inputs, hidden)]
        block.append(make(hidden, hidden, size, stride, groups=hidden))
        block += [_Excitations(hidden)] if is_squeezed else []
        block.append(_make_mn_convolution(hidden, outputs))
        layers.append(_Block("block", block, stride == 1 and inputs == outputs))
        inputs = outputs
    layers.append(_make_mn_convolution(inputs, 6 * inputs, activation=nn.Hardswish))
    head = _scale_channels(1280, width, divisor=8)
    classifier = nn.Sequential(
        nn.Identity(),  # here the published network takes the mean
        nn.Identity(),
        nn.Linear(6 * inputs, head),
        nn.Hardswish(),
        nn.Dropout(0.2),
        nn.Linear(head, num_classes),
    )
    return nn.Sequential(*layers), classifier


class _LogMel(nn.Module):
    """Log-mel front end: [batch, samples] to [batch, 64, frames] in dB."""

    def __init__(self, top_db: float | None):
        super().__init__()
        self.top_db = top_db
        self.spectrogram, self.mel_scale = nn.Module(), nn.Module()
        self.spectrogram.register_buffer("window", torch.hann_window(512))
        self.mel_scale.register_buffer("fb", _compute_mel_filters())

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        # As in psl_jax: rounding shows in bands over 100 dB under the loudest.
        exact = waveforms.double() if waveforms.device.type == "cpu" else waveforms
        spectrum = torch.stft(
            exact,
            n_fft=512,
            hop_length=160,
            window=torch.hann_window(512, dtype=exact.dtype, device=exact.device),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )  # [batch, 257, frames]
        power = torch.view_as_real(spectrum).square().sum(-1).to(waveforms.dtype)
        filters: Any = self.mel_scale.fb
        decibels: torch.Tensor = 10 * (filters.T @ power).clamp(min=1e-10).log10()
        if self.top_db is None:
            return decibels
        return decibels.maximum(decibels.amax((1, 2), keepdim=True) - self.top_db)


class _MnLogMel(nn.Module):
    """mn's front end: [batch, samples] to [batch, 128, frames]; 16 kHz are doubled to 32 kHz."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.is_doubling = sample_rate == SAMPLE_RATE
        # No buffers: the published state dict has none of them, and what is in none stays without
        # values where transformers opens a model.
        with torch.device("cpu"):
            taps = torch.sinc(torch.arange(64, dtype=torch.float64) - 31.5)
            taps *= torch.kaiser_window(66, periodic=False, beta=9.0, dtype=torch.float64)[1:-1]
            kernel = torch.zeros(2, 1, 64)
            kernel[0, 0, 31] = 1  # what is given, and between it what is interpolated
            kernel[1, 0] = taps / taps.sum()
            window = torch.hann_window(800, periodic=False)
            self.constants = kernel, window, _compute_kaldi_filters()

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        kernel, window, filters = (x.to(waveforms.device) for x in self.constants)
        if self.is_doubling:
            padded = nn.functional.pad(waveforms[:, None], (31, 32))
            waveforms = nn.functional.conv1d(padded, kernel).transpose(1, 2).flatten(1)
        emphasized = waveforms[:, 1:] - 0.97 * waveforms[:, :-1]
        spectrum = torch.stft(
            emphasized,
            n_fft=1024,
            hop_length=320,
            win_length=800,
            window=window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )  # [batch, 513, frames]
        mel = filters.T @ torch.view_as_real(spectrum).square().sum(-1)
        features: torch.Tensor = ((mel + 1e-5).log() + 4.5) / 5
        return features


class _Block(nn.Module):
    """An inverted residual, whose layers have their published name."""

    def __init__(self, name: str, layers: Sequence[nn.Module], has_shortcut: bool):
        super().__init__()
        self.name, self.has_shortcut = name, has_shortcut
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.get_submodule(self.name)(x)
        return x + y if self.has_shortcut else y


class _Excitations(nn.Module):
    """A factor for each channel, of the map's mean."""

    def __init__(self, channels: int):
        super().__init__()
        inside, layer = _scale_channels(channels // 4, 1.0), nn.Module()
        layer.fc1, layer.fc2 = nn.Linear(channels, inside), nn.Linear(inside, channels)
        self.conc_se_layers = nn.ModuleList([layer])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer: Any = self.conc_se_layers[0]
        factors = layer.fc2(layer.fc1(x.mean((2, 3))).relu()).sigmoid()
        product: torch.Tensor = x * factors[:, :, None, None]
        return product


def _make_convolution(
    inputs: int,
    outputs: int,
    size: int = 1,
    stride: int = 1,
    activation: type[nn.Module] | None = nn.ReLU6,
    groups: int = 1,
    **norm: Any,
) -> nn.Sequential:
    convolution = nn.Conv2d(
        inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False
    )
    activations = [] if activation is None else [activation()]
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs, **norm), *activations)


_make_mn_convolution = functools.partial(
    _make_convolution, activation=None, eps=1e-3, momentum=0.01
)


def _scale_channels(channels: int, width: float, divisor: int = 0) -> int:
    """Rounds to a multiple of 8, or of 4 in narrow networks, of at least 0.9 of the product."""
    divisor = divisor or (8 if width >= 0.25 else 4)
    target = channels * width
    rounded = max(divisor, int(target + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * target else rounded


def _compute_mel_filters() -> torch.Tensor:
    """Computes triangles of equal width on the HTK mel scale up to 8 kHz: [257, 64]."""
    top = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    mels = torch.linspace(0, top, 64 + 2, dtype=torch.float64)
    corners = 700 * (10 ** (mels / 2595) - 1)
    return _compute_triangles(corners, torch.linspace(0, SAMPLE_RATE / 2, 257, dtype=torch.float64))


def _compute_kaldi_filters() -> torch.Tensor:
    """Computes triangles of equal width over 1127 ln(1 + f / 700) up to 15 kHz: [513, 128]."""

    def mel(hertz: torch.Tensor) -> torch.Tensor:
        return 1127 * (1 + hertz / 700).log()

    corners = torch.linspace(0, 1127 * math.log(1 + 15_000 / 700), 128 + 2, dtype=torch.float64)
    return _compute_triangles(corners, mel(torch.arange(513, dtype=torch.float64) * 31.25))


def _compute_triangles(corners: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    places = places[:, None]
    rising = (places - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - places) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()
