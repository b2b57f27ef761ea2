"""The psl_jax side of the benchmarks: each case as a compiled program."""

import collections
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import Case, create_network
from runners import Runner, seconds_of

from psl_jax.networks.architecture import clip_probabilities
from psl_jax.networks.folding import JaxOperations, frame_probabilities
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.mn import MN
from psl_jax.networks.mobilenetv2 import MOBILENET_V2, fold
from psl_jax.runtime import parallel
from psl_jax.scoring.scorer import scoring_program
from psl_jax.training.step import Recipe, init_state, train_program

LEARNING_RATE = 1e-4


@lru_cache
def _mesh():
    return parallel.data_mesh(1)


class Program:
    """A case's jitted function, its inputs, and (once compiled) what XLA says of it."""

    def __init__(self, case: Case, options: Mapping[str, Any] | None = None):
        """options: of the compiler."""
        self.case, self.options = case, options
        self.function, self.arguments = _FUNCTIONS[case.operation](case)
        self.compiled: Any = None
        self.compile_seconds = 0.0

    def compile(self) -> "Program":
        start = time.perf_counter()
        lowered = self.function.lower(*self.arguments)
        self.compiled = lowered.compile(dict(self.options)) if self.options else lowered.compile()
        self.compile_seconds = time.perf_counter() - start
        return self

    def run(self, times: int) -> None:
        if self.case.relabels:  # as relabeling does
            batches = ((None, None) for _ in range(times))
            made = parallel.compute_in_order(
                batches, lambda *_: self.compiled(*self.arguments), True
            )
            collections.deque(jax.block_until_ready(result) for _, result in made)
            return
        result = None
        for _ in range(times):
            result = self.compiled(*self.arguments)
            if self.case.trains:  # the old state is donated
                self.arguments = (result[0], *self.arguments[1:])
        jax.block_until_ready(result)

    def result(self) -> np.ndarray:
        return np.asarray(self.compiled(*self.arguments))

    def runner(self) -> Runner:
        cost = self._cost()
        words = [f"{name}={value}" for name, value in (self.options or {}).items()]
        return Runner(
            " ".join(["psl_jax", *words]),
            self.run,
            self.compile_seconds,
            _peak_bytes(self.compiled),
            cost.get("flops"),
            cost.get("bytes accessed"),
            self.result if self.case.relabels or self.case.operation == "tag" else None,
        )

    def _cost(self) -> dict[str, float]:
        """XLA's counts for a run; none where a loop takes the batch in parts (XLA counts one)."""
        in_parts = not self.case.trains and " while(" in self.compiled.as_text()
        cost = self.compiled.cost_analysis() or {}
        cost = cost[0] if isinstance(cost, list) else cost
        return {} if in_parts else cost


def _peak_bytes(compiled) -> float | None:
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return total + memory.temp_size_in_bytes - memory.alias_size_in_bytes


def _batch(case: Case) -> dict[str, jax.Array]:
    lengths = np.full(case.batch, case.samples, np.int32)
    batch = {"audio": case.audio(), "num_samples": lengths, "labels": case.labels()}
    return parallel.put_batch(batch, _mesh())


def _architecture(case: Case):
    return MN if case.is_mn else MOBILENET_V2


def _train(case: Case):
    network, variables = create_network(case.is_mn)
    recipe = Recipe(_architecture(case).front_end(LogMel()), dtype=case.dtype)
    state = parallel.replicate(init_state(variables), _mesh())
    return train_program(network, recipe, _mesh()), (state, _batch(case), LEARNING_RATE)


def _relabel(case: Case):
    architecture, (_, variables) = _architecture(case), create_network(case.is_mn)
    program = scoring_program(architecture.front_end(LogMel()), case.dtype, _mesh())
    batch = _batch(case)
    folded = parallel.replicate(architecture.fold(variables, "sigmoid"), _mesh())
    return program, (folded, batch["audio"], batch["num_samples"])


def _forward(case: Case):
    _, variables = create_network()
    operations = JaxOperations(jnp.dtype(case.dtype))

    def forward(network, log_mel):
        return clip_probabilities(frame_probabilities(network, log_mel, operations))

    return jax.jit(forward), (jax.device_put(fold(variables)), jnp.asarray(case.log_mel()))


def _frontend(case: Case):
    return jax.jit(lambda audio: LogMel()(audio)), (jnp.asarray(case.audio()),)


_FUNCTIONS = {
    "train": _train,
    "train_mn": _train,
    "relabel": _relabel,
    "relabel_mn": _relabel,
    "tag": _relabel,
    "forward": _forward,
    "frontend": _frontend,
}


def matmul_ceiling(dtype: str, size: int, repeats: int) -> float:
    """FLOP/s of a product of random size x size matrices, summed in float32."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size), jnp.dtype(dtype)) for key in keys)
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    return 2.0 * size**3 / _best_seconds(lambda: multiply(a, b), repeats)


def copy_ceiling(num_bytes: int, repeats: int) -> float:
    """Bytes read and written a second by a copy of a large array."""
    x = jnp.arange(num_bytes // 4, dtype=jnp.float32)
    copy = jax.jit(lambda x: x + 1.0)
    return 2.0 * x.nbytes / _best_seconds(lambda: copy(x), repeats)


def _best_seconds(call, repeats: int) -> float:
    """Seconds of one call: the best of five times `repeats` queued ones."""
    jax.block_until_ready(call())

    def several():
        for _ in range(repeats):
            result = call()
        jax.block_until_ready(result)

    return min(seconds_of(several) for _ in range(5)) / repeats
