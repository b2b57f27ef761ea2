"""The fifteen longest kernels of a case's program, with the bytes that they move."""

import collections
import math
import pathlib
import re
import tempfile
import time

import compiled_text
import jax
import jax_runners
from cases import Case

STEPS, TOP = 5, 15


def profile(case: Case, copied_bytes_per_second: float) -> dict:
    """Runs a case a few times under the profiler and says where the device's time went.

    Prints a table and returns it: of each kernel the time and the bytes of its operands and
    results in one step, and their share of what a copy would move in that time.
    """
    program = jax_runners.Program(case).compile()
    program.run(3)
    start = time.perf_counter()
    program.run(STEPS)
    step_ms = (time.perf_counter() - start) / STEPS * 1e3
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            program.run(STEPS)
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        kernels = _kernels(jax.profiler.ProfileData.from_file(str(path)))
    operations = {one.name: one for one in compiled_text.operations(program.compiled.as_text())}
    total = sum(time_ns for time_ns, _ in kernels.values()) / STEPS / 1e6 or math.nan
    print(f"\n{case}: {step_ms:.2f} ms a step, {total:.2f} ms in {len(kernels)} kernels; longest:")
    rows = []
    for (kernel, name), (time_ns, count) in sorted(kernels.items(), key=lambda item: -item[1][0])[
        :TOP
    ]:
        # Kernels launched as part of a graph do not say what they compute, but their names do.
        name = name or re.sub(r"_(\d+)$", r".\1", kernel)
        operation, ms = operations.get(name), time_ns / STEPS / 1e6
        moved = operation.times * operation.bytes_moved if operation else None
        rows.append(
            {
                "ms": ms,
                "launches": count / STEPS,
                "bytes": moved,
                "of_copy": moved / (ms / 1e3) / copied_bytes_per_second if moved else None,
                "operation": name,
                "shape": operation.shape if operation else "",
                "scope": operation.scope if operation else "",
                "kernel": kernel[:80],
            }
        )
        print(_line(rows[-1], total), flush=True)
    kinds: dict[str, float] = collections.Counter()
    for (kernel, name), (time_ns, _) in kernels.items():
        kinds[re.sub(r"[.\d]+", "", name or kernel)[:50]] += time_ns / STEPS / 1e6
    longest = sorted(kinds.items(), key=lambda item: -item[1])[:12]
    print("  by kind:", *(f"{ms:8.3f} ms  {kind}" for kind, ms in longest), sep="\n  ")
    return {"step_ms": step_ms, "kernel_ms": total, "longest": rows, "by_kind": dict(longest)}


def _line(row: dict, total: float) -> str:
    moved = f"{row['bytes'] / 1e6:8.1f} MB, {row['of_copy']:.2f} of a copy" if row["bytes"] else ""
    words = [row["operation"][:50], row["shape"][:40], row["scope"][-60:]]
    return (
        f"  {row['ms']:8.3f} ms {100 * row['ms'] / total:5.1f}% {row['launches']:5.0f}x "
        f"{moved:26}  " + "  ".join(word for word in words if word)
    )


def _kernels(data) -> dict[tuple[str, str], tuple[float, int]]:
    """(kernel, HLO operation) -> (nanoseconds, launches), over the device's streams."""
    found: dict[tuple[str, str], list] = collections.defaultdict(lambda: [0.0, 0])
    gpu = any(plane.name.startswith("/device:GPU") for plane in data.planes)
    for plane in data.planes:
        if not plane.name.startswith("/device:GPU" if gpu else "/host:CPU"):
            continue
        lines = list(plane.lines)
        streams = [line for line in lines if line.name.startswith("Stream")]
        for line in streams if gpu and streams else lines:
            for event in line.events:
                stats = dict(event.stats)
                operation = str(stats.get("hlo_op", ""))
                if not gpu and not operation:  # the host's own calls
                    continue
                entry = found[event.name, operation]
                entry[0] += event.duration_ns
                entry[1] += 1
    return {key: (time_ns, count) for key, (time_ns, count) in found.items()}
