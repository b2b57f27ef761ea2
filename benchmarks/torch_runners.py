"""The PyTorch side of the benchmarks: each case in the variants that could be the fastest."""

import contextlib
import dataclasses
import gc
import importlib.util
import time

import torch
from cases import MN_WIDTH, NUM_CLASSES, Case
from runners import Runner, repeated
from torch_reference import MobileNetV2, binary_cross_entropy, fold_batch_norm

from psl_jax.exporting.audio_tagger import AudioTagger

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
LEARNING_RATE = 1e-4
THREADS = torch.get_num_threads()


@dataclasses.dataclass(frozen=True)
class Variant:
    """Memory format, compile mode, and whether the network is prepared for inference.

    folded: BatchNorm in the convolutions, and weights in bfloat16 instead of autocast.
    at_once: batches computed at a time, each by its share of a CPU's cores.
    timm: its mobilenetv2_100 behind our reference's front end, instead of our reference.
    """

    channels_last: bool = True
    folded: bool = False
    compile_mode: str | None = None
    at_once: int = 1
    timm: bool = False

    def __str__(self) -> str:
        words = ["torch", "channels_last" if self.channels_last else "contiguous"]
        words += ["timm"] * self.timm + ["folded"] * self.folded
        words += [f"compile({self.compile_mode})"] * (self.compile_mode is not None)
        return "+".join(words + [f"{self.at_once} batches at a time"] * (self.at_once > 1))


def set_up() -> str:
    """Global switches; returns them in words."""
    # The network is made of convolutions: TF32 there, as XLA does. The mel product needs float32.
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    return (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; cudnn.benchmark, "
        "cudnn.allow_tf32 on, matmul.allow_tf32 off, Adam(fused=True), bfloat16 by autocast"
    )


def variants(case: Case, compile_modes: list[str]) -> list[Variant]:
    """What is tried: on a GPU channels_last, on a CPU both formats; folded for inference.

    timm's network is trained in the last of the modes.
    """
    if case.operation == "frontend":
        return [Variant()]
    folded = not case.trains
    compiled = [Variant(folded=folded, compile_mode=mode) for mode in compile_modes]
    if compiled and case.operation == "train" and importlib.util.find_spec("timm"):
        compiled.append(dataclasses.replace(compiled[-1], timm=True))
    if ON_GPU:
        return [*compiled, Variant(folded=folded)]
    plain = [Variant(last, folded) for last in (True, False)]
    if case.relabels and THREADS > 1:
        plain += [dataclasses.replace(one, at_once=2) for one in plain]
    return [*plain, *compiled]


def synchronize() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def release() -> None:
    """Gives cached memory back, so that the other library can have it."""
    gc.collect()
    if ON_GPU:
        torch.cuda.empty_cache()


def make_runner(case: Case, variant: Variant) -> Runner:
    """Builds, compiles (the first calls) and measures the peak memory of one more call."""
    if ON_GPU:
        release()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    step = _train(case, variant) if case.trains else _inference(case, variant)

    share = max(1, THREADS // variant.at_once)
    several = repeated(step, variant.at_once, lambda: torch.set_num_threads(share))

    def run(times: int) -> None:
        torch.set_num_threads(THREADS)  # threads of another variant have changed it
        several(times)
        synchronize()

    start = time.perf_counter()
    run(1)
    seconds = time.perf_counter() - start
    run(2)
    peak = torch.cuda.max_memory_allocated() - before if ON_GPU else None
    return Runner(str(variant), run, seconds, peak)


class TimmNetwork(MobileNetV2):
    """timm's network on our reference's spectrograms."""

    def __init__(self):
        import timm

        super().__init__(NUM_CLASSES)
        self.features = timm.create_model("mobilenetv2_100", in_chans=1, num_classes=NUM_CLASSES)
        self.classifier = torch.nn.Identity()

    def clip_probabilities(self, log_mel):
        return torch.sigmoid(self.features(log_mel)).float()


class Mn(AudioTagger):
    """EfficientAT's mn, with its front end, in the form of our reference."""

    def __init__(self):
        super().__init__(NUM_CLASSES, MN_WIDTH, network="mn")

    def log_mel(self, audio):
        return self.front_end[0](audio.float() / 32768)[:, None]

    def clip_probabilities(self, log_mel):
        return self.classifier(self.features(log_mel).mean((2, 3))).sigmoid().float()


def _model(case: Case, variant: Variant) -> torch.nn.Module:
    made = TimmNetwork if variant.timm else Mn if case.is_mn else None
    model = made() if made else MobileNetV2(NUM_CLASSES)
    model.train(case.trains)
    if variant.folded:
        fold_batch_norm(model)
        model.features.to(getattr(torch, case.dtype))
        model.classifier.to(getattr(torch, case.dtype))
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    return model.to(DEVICE, memory_format=layout)


def _autocast(case: Case, variant: Variant):
    if case.dtype == "float32" or variant.folded:
        return contextlib.nullcontext()
    return torch.autocast(DEVICE.type, torch.bfloat16)


def _compiled(function, variant: Variant):
    if variant.compile_mode is None:
        return function
    torch._dynamo.reset()  # nothing of earlier cases: no recompilation limit, no dynamic shapes
    return torch.compile(function, mode=variant.compile_mode, dynamic=False)


def _formatted(log_mel, variant: Variant):
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    return log_mel.contiguous(memory_format=layout)


def _train(case: Case, variant: Variant):
    model = _model(case, variant)
    audio = torch.from_numpy(case.audio()).to(DEVICE)
    labels = torch.from_numpy(case.labels()).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)

    def loss_of(audio, labels):
        with _autocast(case, variant):
            log_mel = _formatted(model.log_mel(audio), variant)
            return binary_cross_entropy(model.clip_probabilities(log_mel), labels)

    loss_of = _compiled(loss_of, variant)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss_of(audio, labels).backward()
        optimizer.step()

    return step


def _inference(case: Case, variant: Variant):
    model = _model(case, variant)
    given_mel = case.operation == "forward"
    inputs = case.log_mel().transpose(0, 2, 1)[:, None] if given_mel else case.audio()
    x = torch.from_numpy(inputs).to(DEVICE)

    def function(x):
        log_mel = x if given_mel else model.log_mel(x)
        if case.operation == "frontend":
            return log_mel
        with _autocast(case, variant):
            if variant.folded:
                log_mel = log_mel.to(getattr(torch, case.dtype))
            return model.clip_probabilities(_formatted(log_mel, variant))

    function = _compiled(function, variant)

    def step():
        with torch.inference_mode():
            function(x)

    return step


def matmul_ceiling(dtype: str, size: int, repeats: int) -> float:
    """FLOP/s of a product of random size x size matrices; TF32 for float32 on a GPU."""
    a, b = (torch.randn(size, size, device=DEVICE, dtype=getattr(torch, dtype)) for _ in "ab")
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return 2.0 * size**3 / _best_seconds(lambda: a @ b, repeats)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def copy_ceiling(num_bytes: int, repeats: int) -> float:
    """Bytes read and written a second by a copy of a large array."""
    x = torch.rand(num_bytes // 4, device=DEVICE)
    y = torch.empty_like(x)
    return 2.0 * num_bytes / _best_seconds(lambda: y.copy_(x), repeats)


def _best_seconds(call, repeats: int) -> float:
    times = []
    for _ in range(6):
        synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:]) / repeats
