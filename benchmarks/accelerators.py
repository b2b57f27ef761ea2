"""Accelerators that programs can be compiled for where there are none."""

import dataclasses
import importlib.util
import pathlib
from typing import Any

# What XLA wants to know of an H100 to compile for it.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } runtime_version { major: 12 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Target:
    """Some chips of one kind.

    Attributes:
      platform: "tpu" or "cuda".
      topology: as JAX names it.
      kind: what TPU_ACCELERATOR_TYPE says.
      gibibytes, gigahertz: memory and clock of a chip.
      teraflops, gigabytes: that its matrix unit computes in bfloat16, and its memory moves, in a
        second, as its vendor publishes them; tile: how many terms the matrix unit adds at a time.
    """

    platform: str
    topology: str
    kind: str
    gibibytes: int
    gigahertz: float = 0.0
    teraflops: float = 0.0
    gigabytes: float = 0.0
    tile: int = 128

    def roofs(self, flops: float, elements: float, main_bytes: float) -> dict[str, float]:
        """Cycles that each unit of a TPU takes at least.

        Its vector unit has 8 x 128 lanes with 4 ALUs each; an element is taken for one operation.
        """
        clock = self.gigahertz * 1e9
        return {
            "matrix": flops / (self.teraflops * 1e12) * clock,
            "vector": elements / (8 * 128 * 4),
            "memory": main_bytes / (self.gigabytes * 1e9) * clock,
        }


TARGETS = {
    "v5e-8": Target("tpu", "v5e:2x4", "v5litepod-8", 16, 1.5, 197, 819),
    "v5e-32": Target("tpu", "v5e:4x8", "v5litepod-32", 16, 1.5, 197, 819),
    "v5e-256": Target("tpu", "v5e:16x16", "v5litepod-256", 16, 1.5, 197, 819),
    "v4-8": Target("tpu", "v4:2x2x1", "v4-8", 32, 1.05, 275, 1228),
    "v4-64": Target("tpu", "v4:2x4x4", "v4-64", 32, 1.05, 275, 1228),
    "v4-512": Target("tpu", "v4:4x8x8", "v4-512", 32, 1.05, 275, 1228),
    "v5p-8": Target("tpu", "v5:2x2x1", "v5p-8", 95, 1.75, 459, 2765),
    "v6e-8": Target("tpu", "v6e:2x4", "v6e-8", 32, 1.75, 918, 1640, 256),
    "h100": Target("cuda", "1x1x1", "", 79),
}


def environment(target: Target) -> dict[str, str]:
    """Variables for the process that compiles."""
    variables = {"JAX_PLATFORMS": "cpu"}
    if target.platform == "cuda":
        return variables | {"XLA_FLAGS": "--xla_gpu_autotune_level=0"}
    variables |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second process dies on a lock file
        "TPU_ACCELERATOR_TYPE": target.kind,
        "TPU_WORKER_HOSTNAMES": "localhost",
    }
    found = importlib.util.find_spec("libtpu")
    if found and found.submodule_search_locations:
        library = pathlib.Path(next(iter(found.submodule_search_locations))) / "libtpu.so"
        variables["TPU_LIBRARY_PATH"] = str(library)
    return variables


def mesh_of(target: Target) -> Any:
    """A mesh over the target's chips, for compiling alone."""
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import AxisType, Mesh

    from psl_jax.runtime.parallel import AXIS

    if target.platform == "tpu":
        topology = topologies.get_topology_desc(platform="tpu", topology_name=target.topology)
    else:
        jax.config.update("jax_platforms", "cpu")
        topology = topologies.get_topology_desc(
            platform="cuda", topology_name="h100", topology=target.topology, target_config=_H100
        )
    return Mesh(np.array(topology.devices), (AXIS,), axis_types=(AxisType.Auto,))
