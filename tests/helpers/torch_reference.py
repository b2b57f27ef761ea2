"""The PSL network, front end and loss in PyTorch, written from their description.

What psl_jax is compared with: the tests check that both compute the same, the benchmarks which one
is faster. The modules are laid out so that the state dict has the names of the published
checkpoints (`features.N...`, `classifier.1...`, `front_end...`). Needs PyTorch only.
"""

import math

import torch
from torch import nn
from torch.nn import functional

# (expansion, channels, repeats, stride) of the groups of inverted residuals.
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class Spectrogram(nn.Module):
    """Power spectrogram [batch, 257, frames] of a waveform [batch, samples] at 16 kHz."""

    def __init__(self, size: int = 512, hop: int = 160):
        super().__init__()
        self.hop = hop
        self.register_buffer("window", torch.hann_window(size, periodic=True))

    def forward(self, audio):
        size = len(self.window)
        spectrum = torch.stft(
            audio, size, self.hop, window=self.window, center=True, pad_mode="reflect",
            return_complex=True,
        )  # fmt: skip
        return torch.view_as_real(spectrum).square().sum(-1)


class MelScale(nn.Module):
    """Sums a power spectrogram into triangular HTK mel bands: [batch, 64, frames]."""

    def __init__(self, bands: int = 64, bins: int = 257, top_hertz: float = 8000.0):
        super().__init__()
        top_mel = 2595 * math.log10(1 + top_hertz / 700)
        mels = torch.linspace(0, top_mel, bands + 2, dtype=torch.float64)
        corners = 700 * (10 ** (mels / 2595) - 1)
        hertz = torch.linspace(0, top_hertz, bins, dtype=torch.float64)
        above = hertz[:, None] - corners  # hertz above each corner
        width = corners.diff()
        up, down = above[:, :-2] / width[:-1], -above[:, 2:] / width[1:]
        self.register_buffer("fb", torch.minimum(up, down).clamp(min=0).float())

    def forward(self, power):
        return (power.transpose(1, 2) @ self.fb).transpose(1, 2)


class MelSpectrogram(nn.Module):
    def __init__(self):
        super().__init__()
        self.spectrogram = Spectrogram()
        self.mel_scale = MelScale()

    def forward(self, audio):
        return self.mel_scale(self.spectrogram(audio))


class Decibel(nn.Module):
    """10 log10 of power, floored 120 dB under the loudest value of each clip."""

    def forward(self, power):
        decibel = 10 * power.clamp(min=1e-10).log10()
        return torch.maximum(decibel, decibel.amax((1, 2), keepdim=True) - 120.0)


def convolution(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1):
    """[convolution without bias, BatchNorm]; padding keeps stride-1 sizes."""
    return [
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        stages: list[nn.Module] = []
        if expansion > 1:
            stages.append(nn.Sequential(*convolution(inputs, hidden, 1), nn.ReLU6(inplace=True)))
        depthwise = convolution(hidden, hidden, 3, stride, groups=hidden)
        stages.append(nn.Sequential(*depthwise, nn.ReLU6(inplace=True)))
        self.conv = nn.Sequential(*stages, *convolution(hidden, outputs, 1))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.shortcut else self.conv(x)


def scaled(channels: int, width: float) -> int:
    """Channels at a width: a multiple of 8, at least 0.9 of the exact product."""
    exact = channels * width
    nearest = max(8, 8 * int(exact / 8 + 0.5))
    return nearest if nearest >= 0.9 * exact else nearest + 8


class MobileNetV2(nn.Module):
    """Audio [batch, samples], int16 or float, to class probabilities.

    2,898,383 parameters at 527 classes and width 1.
    """

    def __init__(self, num_classes: int = 527, width: float = 1.0, dropout: float = 0.3):
        super().__init__()
        self.front_end = nn.Sequential(MelSpectrogram(), Decibel())
        channels = scaled(32, width)
        layers: list[nn.Module] = [
            nn.Sequential(*convolution(1, channels, 3, stride=2), nn.ReLU6(inplace=True))
        ]
        for expansion, outputs, repeats, stride in GROUPS:
            outputs = scaled(outputs, width)
            for repeat in range(repeats):
                first = repeat == 0
                layers.append(
                    InvertedResidual(channels, outputs, stride if first else 1, expansion)
                )
                channels = outputs
        head = scaled(1280, max(1.0, width))
        layers.append(nn.Sequential(*convolution(channels, head, 1), nn.ReLU6(inplace=True)))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(head, num_classes))
        self._initialize()

    def _initialize(self):
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
                nn.init.zeros_(module.bias)

    def log_mel(self, audio):
        """[batch, samples] -> dB [batch, 1, 64, frames], always in float32."""
        with torch.autocast(audio.device.type, enabled=False):
            if not audio.is_floating_point():
                audio = audio.float() / 32768
            return self.front_end(audio)[:, None]

    def frame_probabilities(self, log_mel):
        """[batch, 1, 64, frames] -> [batch, frames / 32, classes]."""
        x = self.features(log_mel).mean(2).transpose(1, 2)  # over frequency
        return torch.sigmoid(self.classifier(x))

    def clip_probabilities(self, log_mel):
        """[batch, 1, 64, frames] -> float32 [batch, classes]: the mean over time."""
        return self.frame_probabilities(log_mel).float().mean(1)

    def forward(self, audio):
        return self.clip_probabilities(self.log_mel(audio))


def binary_cross_entropy(probabilities, labels):
    """Mean over examples and classes, in float32 also under autocast."""
    with torch.autocast(probabilities.device.type, enabled=False):
        return functional.binary_cross_entropy(probabilities.float(), labels)


def fold_batch_norm(model: MobileNetV2) -> MobileNetV2:
    """Folds each BatchNorm of an eval-mode model into the convolution before it, in place."""
    for sequence in [m for m in model.features.modules() if isinstance(m, nn.Sequential)]:
        for i in range(len(sequence) - 1):
            if isinstance(sequence[i], nn.Conv2d) and isinstance(sequence[i + 1], nn.BatchNorm2d):
                sequence[i] = nn.utils.fusion.fuse_conv_bn_eval(sequence[i], sequence[i + 1])
                sequence[i + 1] = nn.Identity()
    return model


def randomize_statistics(model: MobileNetV2, seed: int = 0) -> MobileNetV2:
    """Random BatchNorm parameters and statistics, as a trained network has, in place."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like, low, high):
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(uniform(module.weight, 0.5, 1.5))
                module.bias.copy_(uniform(module.bias, -0.5, 0.5))
                module.running_mean.copy_(uniform(module.running_mean, -0.5, 0.5))
                module.running_var.copy_(uniform(module.running_var, 0.5, 2.0))
    return model
