"""Ways to compute the depthwise convolutions, layer by layer and in the whole network."""

import jax
import jax.numpy as jnp
from cases import NUM_CLASSES, Case
from runners import Runner, Schedule, alternate, calibrate

from psl_jax.networks.convolutions import METHODS, depthwise3x3
from psl_jax.networks.forward_context import Context
from psl_jax.networks.mobilenetv2 import (
    INVERTED_RESIDUALS,
    STEM_CHANNELS,
    Variables,
    create,
)
from psl_jax.runtime import parallel
from psl_jax.training.step import binary_cross_entropy

WAYS = (*METHODS, "channels_first")
SCHEDULE = Schedule(rounds=3, round_seconds=0.1)


def main(seconds: list[int], batches: list[int] | None, dtypes: list[str]) -> None:
    """Prints milliseconds of each method for the first length, batch and type."""
    batch = batches[0] if batches else (256 if jax.default_backend() != "cpu" else 8)
    case = Case("train", seconds[0], batch, dtypes[0])
    print(f"\ndepthwise methods, {case}: milliseconds forward / forward and backward")
    print(f"{'frames x bands x channels, stride':36}" + "".join(f"{m:>22}" for m in WAYS))
    for shape, stride in _shapes(case):
        _print_row(f"{'x'.join(map(str, shape[1:]))}, {stride}", _layer, shape, stride, case.dtype)
    _print_row("whole network", _network, case)


def _shapes(case: Case):
    """Input shapes and strides of the distinct depthwise layers."""
    frames, bands, channels = (case.frames + 1) // 2, 32, STEM_CHANNELS
    found = {}
    for expansion, outputs, repeats, stride in INVERTED_RESIDUALS:
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            found[(case.batch, frames, bands, channels * expansion), step] = None
            frames, bands = (frames - 1) // step + 1, (bands - 1) // step + 1
            channels = outputs
    return list(found)


def _print_row(title: str, make, *arguments) -> None:
    cells, runners = [], {}
    for method in WAYS:
        for backward in (False, True):
            try:
                runner = make(method, backward, *arguments)
                calibrate(runner, SCHEDULE)
                runners[method, backward] = runner
            except Exception as error:
                print(f"[failed] {title}, {method}: {type(error).__name__}: {str(error)[:200]}")
    alternate(list(runners.values()), SCHEDULE)
    for method in WAYS:
        pair = [runners.get((method, backward)) for backward in (False, True)]
        cells.append(" / ".join(f"{1e3 / r.rate:.3f}" if r else "-" for r in pair))
    print(f"{title:36}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


def _layer(method: str, backward: bool, shape, stride: int, dtype: str) -> Runner:
    key, channels_first = jax.random.key(0), method == "channels_first"
    channels = shape[-1]
    shape = (channels, *shape[1:3], shape[0]) if channels_first else shape
    x = jax.random.normal(key, shape, jnp.dtype(dtype))
    kernel = jax.random.normal(key, (3, 3, channels))

    def forward(x, kernel):
        if channels_first:
            return depthwise3x3(x, kernel, stride, channels_first=True)
        return depthwise3x3(x, kernel, stride, method)

    if not backward:
        return _runner(method, jax.jit(forward), x, kernel)
    y = jax.random.normal(key, jax.eval_shape(forward, x, kernel).shape, x.dtype)

    def both(x, kernel, y):
        result, pull = jax.vjp(forward, x, kernel)
        return result, pull(y)

    return _runner(method, jax.jit(both), x, kernel, y)


def _network(method: str, backward: bool, case: Case) -> Runner:
    network, variables = create(NUM_CLASSES, dropout=0.0)
    how = {"channels_first": True} if method == "channels_first" else {"depthwise": method}
    context = Context(train=backward, gives_logits=True, dtype=jnp.dtype(case.dtype), **how)
    log_mel, labels = jnp.asarray(case.log_mel()), jnp.asarray(case.labels())

    def loss(params, stats, log_mel):
        frames, stats = network.apply(Variables(params, stats), log_mel, context)
        return binary_cross_entropy(frames, labels), stats

    def forward(params, stats, log_mel):
        return network.apply(Variables(params, stats), log_mel, context)[0]

    function = jax.value_and_grad(loss, has_aux=True) if backward else forward
    return _runner(method, jax.jit(function), *variables, log_mel)


def _runner(method: str, function, *arguments) -> Runner:
    options = parallel.FAST_MATH if jax.default_backend() == "cpu" else None
    compiled = function.lower(*arguments).compile(options)

    def run(times: int) -> None:
        result = None
        for _ in range(times):
            result = compiled(*arguments)
        jax.block_until_ready(result)

    return Runner(method, run)
