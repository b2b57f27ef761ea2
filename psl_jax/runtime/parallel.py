"""Data parallelism: per-device programs mapped over a mesh axis, and batches put on devices.

Parameters are replicated, batches split over the axis `"data"`.
"""

import collections
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from psl_jax.runtime.distributed import LONGEST_WAIT_MS
from psl_jax.runtime.ordered_map import ordered_map

_Result = TypeVar("_Result")

AXIS = "data"
SPLIT = PartitionSpec(AXIS)
REPLICATED = PartitionSpec()

# Options of XLA:CPU: float operations may be reordered and contracted, so that sums fill vectors.
# NaNs, infinities, quotients and functions stay what they are.
_HONOURED = ("nans", "infs", "division", "functions")
FAST_MATH = {"xla_cpu_enable_fast_math": True} | {
    f"xla_cpu_fast_math_honor_{what}": True for what in _HONOURED
}

# A CPU computes so many batches at a time: one alone leaves cores waiting for each other
# (docs/PERFORMANCE.md). Not in JAX 0.11: each FFT there waits inside the pool of threads for others
# of the pool, and two of them at a time on two cores wait for ever.
_CPU_AT_ONCE = 1 if jax.__version_info__[:2] == (0, 11) else 2


def data_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh over all devices of all processes, or over the first `num_devices` of them."""
    return _mesh(jax.devices()[:num_devices])


def local_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh over this process's devices only, for work that processes do independently."""
    return _mesh(jax.local_devices()) if jax.process_count() > 1 else data_mesh(num_devices)


def _mesh(devices: list[jax.Device]) -> Mesh:
    # Auto: under the default explicit axes a batch-split waveform cannot be cut into segments.
    return jax.make_mesh((len(devices),), (AXIS,), devices=devices, axis_types=(AxisType.Auto,))


def platform_of(mesh: Mesh) -> str:
    """What a program on `mesh` is for: "cpu", "gpu" or "tpu"; not always that of this machine."""
    platform: str = mesh.devices.flat[0].platform
    return platform


def describe_devices(mesh: Mesh) -> str:
    """How many devices of which kind: "4 x NVIDIA H100 80GB HBM3 of 1 process"."""
    processes = jax.process_count()
    device_kind = mesh.devices.flat[0].device_kind
    return f"{mesh.size} x {device_kind} of {processes} process{'es' * (processes > 1)}"


def data_parallel(
    function: Callable[..., Any],
    mesh: Mesh,
    in_specs: Any,
    out_specs: Any,
    donate: tuple[int, ...] = (),
    fast_math: bool = False,
) -> Callable[..., Any]:
    """The jitted program in which each device runs `function` on its part of the batch.

    Inside, collectives over AXIS make results global; outputs declared REPLICATED must be.
    fast_math: on CPUs, compile with FAST_MATH; such a program cannot be part of another one.
    """
    mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
    options = FAST_MATH if fast_math and platform_of(mesh) == "cpu" else None
    return jax.jit(mapped, donate_argnums=donate, compiler_options=options)


def mark_varying(tree: Any) -> Any:
    """Marks replicated arrays as per-device ones; gradients are summed where this is undone."""
    return jax.tree.map(lambda x: jax.lax.pcast(x, AXIS, to="varying"), tree)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts the same values on every device of `mesh`."""
    sharding = NamedSharding(mesh, REPLICATED)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
    )


def to_host(tree: Any) -> Any:
    """Replicated arrays as NumPy arrays, also where they span several processes."""
    return jax.tree.map(
        lambda x: np.asarray(x.addressable_data(0)) if isinstance(x, jax.Array) else x, tree
    )


def gather_rows(rows: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """The rows [n, ...] of all processes, one after the other; counts: n of each."""
    if jax.process_count() == 1:
        return rows
    wait_for_all("gather rows")
    padded = np.zeros((max(counts), *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    gathered = np.asarray(multihost_utils.process_allgather(padded))
    return np.concatenate([part[:n] for part, n in zip(gathered, counts, strict=True)])


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Splits this process's share of a batch over its devices."""
    sharding = NamedSharding(mesh, SPLIT)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def local_rows(array: jax.Array) -> np.ndarray:
    """This process's rows of a batch-split array, on the host."""
    shards = {s.index[0].start or 0: s for s in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)])


def memory_bytes(mesh: Mesh) -> int:
    """The memory of this process's devices; CPUs have the machine's."""
    limits = ((device.memory_stats() or {}).get("bytes_limit", 0) for device in mesh.local_devices)
    return sum(limits) or machine_bytes()


def machine_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def prefetch(items: Iterable[Any], function: Callable[..., Any], depth: int = 3) -> Generator[Any]:
    """Yields `function(item)` in order, up to `depth` made ahead by a background thread."""
    iterator, end = iter(items), object()

    def make_next() -> Any:
        item = next(iterator, end)
        return item if item is end else function(item)

    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        made = collections.deque(pool.submit(make_next) for _ in range(depth))
        while (value := made.popleft().result()) is not end:
            made.append(pool.submit(make_next))
            yield value
    finally:  # also when the consumer stops early or fails
        pool.shutdown(wait=True, cancel_futures=True)


def compute_in_order(
    items: Iterable[tuple[Any, Any]], program: Callable[[Any, Any], Any], alone: bool
) -> Generator[tuple[Any, Any]]:
    """Yields (item, program(item, its inputs on the devices)) in order.

    While a batch is computed the next ones are taken from `items`. alone: the program runs on one
    device; where that is a CPU, several threads run it. Programs over several devices are started
    by one thread: all devices need them in the same order.
    """
    if alone and jax.default_backend() == "cpu":

        def run_to_end(pair: tuple[Any, Any]) -> tuple[Any, Any]:
            item, inputs = pair
            return item, jax.block_until_ready(program(item, inputs))

        yield from ordered_map(run_to_end, items, _CPU_AT_ONCE, ahead=1)
        return
    begun = []
    for item, inputs in items:
        begun.append((item, program(item, inputs)))
        if len(begun) > 1:
            yield begun.pop(0)
    yield from begun


def wait_for_all(what: str) -> None:
    """Waits, if need be for hours, until every process that lives has come here.

    The processes' coordinator is asked, not their devices: collectives time out.
    """
    from orbax.checkpoint import multihost  # slow to import, and tagging has no need of it

    multihost.get_barrier_sync_fn()(key=what, timeout_ms=LONGEST_WAIT_MS)


def run_after_first_process(what: str, do: Callable[[], _Result]) -> _Result:
    """What `do` gives in each process; the others begin when process 0 has done it."""
    is_first = jax.process_index() == 0
    if not is_first:
        wait_for_all(what)
    result = do()
    if is_first:
        wait_for_all(what)
    return result


def run_in_first_process(what: str, do: Callable[[], _Result]) -> _Result | None:
    """What `do` gives in process 0, for which the others wait; None in these.

    Processes that went on to their end would be taken for lost ones. what: a name, used once.
    """
    result = do() if jax.process_index() == 0 else None
    wait_for_all(what)
    return result


def multiplies_bfloat16(cpuinfo: str) -> bool:
    """Whether a processor has AVX512-BF16 or AMX, by the text of Linux's /proc/cpuinfo."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpuinfo.split())


@functools.cache
def dtype_on(platform: str, dtype: str) -> str:
    """`dtype`, or float32 with a warning for bfloat16 on a CPU that has no instructions for it."""
    if platform != "cpu" or dtype != "bfloat16":
        return dtype
    path = pathlib.Path("/proc/cpuinfo")
    if path.exists() and multiplies_bfloat16(path.read_text()):
        return dtype
    print(
        "warning: this processor has no instructions for bfloat16 (AVX512-BF16 or AMX), so the "
        "network is computed in float32, which is faster here",
        file=sys.stderr,
        flush=True,
    )
    return "float32"
