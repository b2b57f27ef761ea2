"""What is timed: cases, their inputs, and the least work that each of them must do."""

import dataclasses
import functools
import importlib.util
import pathlib
import sys
from collections.abc import Iterator

import jax
import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.networks import mn_frontend, mobilenetv2
from psl_jax.networks.frontend import num_frames
from psl_jax.networks.layers import halved, round_channels
from psl_jax.networks.mn import HEAD_CHANNELS, LAST_EXPANSION, MN, STEM_CHANNELS, TABLE

OPERATIONS = ("train", "train_mn", "relabel", "relabel_mn", "tag", "forward", "frontend")
MN_WIDTH = 0.4
NUM_CLASSES = 527
NUM_MELS = 64
sys.path.append(
    str(pathlib.Path(__file__).resolve().parents[1] / "tests/helpers")
)  # torch_reference


@dataclasses.dataclass(frozen=True)
class Case:
    """One operation at one size; dtype is float32 or bfloat16 (the front end is always float32).

    train     int16 waveforms and soft labels -> one optimizer step
    train_mn  the same of EfficientAT's mn of MN_WIDTH, whose front end doubles the rate
    relabel   int16 waveforms -> clip probabilities; a CPU computes several batches at a time
    relabel_mn  the same of mn
    tag       the same of one batch at a time
    forward   log-mel spectrograms -> clip probabilities
    frontend  int16 waveforms -> log-mel spectrograms
    """

    operation: str
    seconds: int
    batch: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.operation} {self.seconds} s, batch {self.batch}, {self.dtype}"

    def in_float32(self) -> "Case":
        return dataclasses.replace(self, dtype="float32")

    @property
    def trains(self) -> bool:
        return self.operation.startswith("train")

    @property
    def relabels(self) -> bool:
        return self.operation.startswith("relabel")

    @property
    def is_mn(self) -> bool:
        return self.operation.endswith("mn")

    @property
    def samples(self) -> int:
        return self.seconds * SAMPLE_RATE

    @property
    def frames(self) -> int:
        return num_frames(self.samples)

    def audio(self) -> np.ndarray:
        """int16 [batch, samples]: noise, since arithmetic on zeros can run faster."""
        rng = np.random.default_rng(0)
        return rng.integers(-8000, 8000, (self.batch, self.samples), dtype=np.int16)

    def labels(self) -> np.ndarray:
        """float32 [batch, classes]: soft labels."""
        return np.random.default_rng(1).random((self.batch, NUM_CLASSES), dtype=np.float32) ** 4

    def log_mel(self) -> np.ndarray:
        """float32 [batch, frames, mels] in dB."""
        rng = np.random.default_rng(2)
        return rng.normal(-20, 15, (self.batch, self.frames, NUM_MELS)).astype(np.float32)


@functools.cache
def create_network(is_mn: bool = False) -> tuple[mobilenetv2.Network, mobilenetv2.Variables]:
    """The network with BatchNorms like a trained one's: with initial ones it would be silent."""
    create = functools.partial(MN.create, width=MN_WIDTH) if is_mn else mobilenetv2.create
    network, variables = create(NUM_CLASSES)
    rng = np.random.default_rng(0)
    ranges = {"scale": (0.5, 1.5), "bias": (-0.5, 0.5), "mean": (-0.5, 0.5), "var": (0.2, 2.0)}

    def drawn(path, x):
        low_high = ranges.get(path[-1].key) if "norm" in str(path[-2]) else None
        return rng.uniform(*low_high, x.shape).astype(np.float32) if low_high else np.asarray(x)

    return network, jax.tree_util.tree_map_with_path(drawn, variables)


def make_shallow() -> None:
    """Leaves two blocks of the network, here and in the PyTorch reference: quick to compile."""
    mobilenetv2.INVERTED_RESIDUALS = ((1, 16, 1, 1), (6, 24, 2, 2))
    if importlib.util.find_spec("torch"):
        import torch_reference

        torch_reference.GROUPS = mobilenetv2.INVERTED_RESIDUALS


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution: multiply-adds a segment, and values that it writes a segment."""

    macs: int
    outputs: int


def blocks(case: Case) -> Iterator[tuple[int, int, int, int]]:
    """(hidden channels, output channels, size of the kernel, stride) of each block."""
    if case.is_mn:
        for row in TABLE:
            hidden, outputs = (round_channels(n * MN_WIDTH) for n in (row.expanded, row.channels))
            yield hidden, outputs, row.kernel, row.stride
        return
    channels = mobilenetv2.STEM_CHANNELS
    for expansion, outputs, repeats, stride in mobilenetv2.INVERTED_RESIDUALS:
        for repeat in range(repeats):
            yield channels * expansion, outputs, 3, 1 if repeat else stride
            channels = outputs


def layers(case: Case) -> list[Layer]:
    """The convolutions of the network for one segment, from the stem on."""
    frames, bands, channels = case.frames, NUM_MELS, mobilenetv2.STEM_CHANNELS
    if case.is_mn:
        frames, bands = mn_frontend.num_frames(2 * case.samples), mn_frontend.NUM_MELS
        channels = round_channels(STEM_CHANNELS * MN_WIDTH)
    frames, bands = halved(frames), halved(bands)
    area = frames * bands
    result = [Layer(area * 9 * channels, area * channels)]
    for hidden, outputs, size, stride in blocks(case):
        if hidden != channels:
            result.append(Layer(area * channels * hidden, area * hidden))
        if stride == 2:
            frames, bands = halved(frames), halved(bands)
            area = frames * bands
        result.append(Layer(area * size**2 * hidden, area * hidden))
        result.append(Layer(area * hidden * outputs, area * outputs))
        channels = outputs
    last = LAST_EXPANSION * channels if case.is_mn else mobilenetv2.HEAD_CHANNELS
    return [*result, Layer(area * channels * last, area * last)]


def minimum_flops(case: Case) -> float:
    """Floating-point operations of the convolutions, the classifier and the mel product.

    A training step takes three times the forward pass's, less the input gradient of the stem.
    """
    mel = 2.0 * case.frames * 257 * NUM_MELS if case.operation != "forward" else 0.0
    if case.operation == "frontend":
        return case.batch * mel
    convolutions = layers(case)
    classifier = (convolutions[-1].outputs // 2) * NUM_CLASSES  # 2 bands left, averaged
    if case.is_mn:  # squeeze-and-excitation is left out
        mel = 2.0 * case.frames * mn_frontend.BINS * mn_frontend.NUM_MELS
        classifier = round_channels(HEAD_CHANNELS * MN_WIDTH) * NUM_CLASSES
    forward = 2.0 * (sum(layer.macs for layer in convolutions) + classifier)
    network = 3 * forward - 2.0 * convolutions[0].macs if case.trains else forward
    return case.batch * (network + mel)


def minimum_bytes(case: Case) -> float:
    """Bytes that cross the memory if each convolution is one perfectly fused kernel.

    Forward: the output of each convolution is written once and read once (BatchNorm and ReLU6 are
    applied on the way). Backward: its gradient is written once and read once, and the saved output
    read twice, for its own BatchNorm and as the input of the next layer's kernel gradient.
    Waveforms are read and spectrograms written and read once; parameters are negligible.
    """
    value = 2 if case.dtype == "bfloat16" else 4
    bands = mn_frontend.NUM_MELS if case.is_mn else NUM_MELS
    waveform, spectrogram = 2 * case.samples, 4 * case.frames * bands
    if case.operation == "frontend":
        return float(case.batch * (waveform + spectrogram))
    passes = 6 if case.trains else 2
    network = value * passes * sum(layer.outputs for layer in layers(case))
    inputs = spectrogram if case.operation == "forward" else waveform + 2 * spectrogram
    return float(case.batch * (network + inputs))
