"""EfficientAT's mn in PyTorch, written from its description: what psl_jax's is compared with.

The modules are laid out so that the state dict has the names of the published checkpoints
(`features.N.block.M...`, `classifier.2`, `classifier.5`). Needs PyTorch only.
"""

from torch import nn


def multiple_of_8(channels: float) -> int:
    nearest = max(8, 8 * int(channels / 8 + 0.5))
    return nearest if nearest >= 0.9 * channels else nearest + 8


def convolution(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1):
    """[convolution without bias, BatchNorm]; padding keeps stride-1 sizes."""
    return [
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
    ]


class SqueezeExcitation(nn.Module):
    """Factors for channels, of the mean over bands and frames."""

    def __init__(self, channels: int):
        super().__init__()
        inside = multiple_of_8(channels // 4)
        self.fc1, self.fc2 = nn.Linear(channels, inside), nn.Linear(inside, channels)

    def forward(self, x):
        factors = self.fc2(self.fc1(x.mean((2, 3))).relu()).sigmoid()
        return x * factors[:, :, None, None]


class ConcurrentExcitation(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conc_se_layers = nn.ModuleList([SqueezeExcitation(channels)])

    def forward(self, x):
        return self.conc_se_layers[0](x)


class Block(nn.Module):
    """row: (kernel, expanded, channels, squeezed, h-swish, stride) at width 1."""

    def __init__(self, row, inputs: int, width: float):
        super().__init__()
        size, hidden, outputs, squeezed, hard_swish, stride = row
        hidden, outputs = multiple_of_8(hidden * width), multiple_of_8(outputs * width)
        activation = nn.Hardswish if hard_swish else nn.ReLU
        stages: list[nn.Module] = []
        if hidden != inputs:
            stages.append(nn.Sequential(*convolution(inputs, hidden, 1), activation()))
        stages.append(
            nn.Sequential(*convolution(hidden, hidden, size, stride, hidden), activation())
        )
        if squeezed:
            stages.append(ConcurrentExcitation(hidden))
        stages.append(nn.Sequential(*convolution(hidden, outputs, 1)))
        self.block, self.outputs = nn.Sequential(*stages), outputs
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.block(x) if self.shortcut else self.block(x)


class MobileNetV3(nn.Module):
    """Features [batch, frames, bands] to class logits [batch, classes]."""

    def __init__(self, table, num_classes: int = 527, width: float = 1.0, dropout: float = 0.2):
        super().__init__()
        channels = multiple_of_8(16 * width)
        layers: list[nn.Module] = [
            nn.Sequential(*convolution(1, channels, 3, stride=2), nn.Hardswish())
        ]
        for row in table:
            layers.append(Block(row, channels, width))
            channels = layers[-1].outputs
        layers.append(nn.Sequential(*convolution(channels, 6 * channels, 1), nn.Hardswish()))
        self.features = nn.Sequential(*layers)
        head = multiple_of_8(1280 * width)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6 * channels, head),
            nn.Hardswish(),
            nn.Dropout(dropout),
            nn.Linear(head, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, features):
        return self.classifier(self.features(features.transpose(1, 2)[:, None]))
