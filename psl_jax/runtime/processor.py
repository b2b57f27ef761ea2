"""What this machine's processor computes fast."""

import functools
import pathlib
import sys


def multiplies_bfloat16(cpuinfo: str) -> bool:
    """Whether a processor has instructions for products of bfloat16: AVX512-BF16 or AMX.

    cpuinfo: the text of Linux's /proc/cpuinfo.
    """
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpuinfo.split())


@functools.cache
def dtype_on(platform: str, dtype: str) -> str:
    """The data type to compute in on a platform of JAX where `dtype` is asked for.

    On a CPU without instructions for bfloat16 it is float32, and a warning says so: bfloat16 would
    take more than twice as long there.
    """
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
