"""The ten longest kernels of the training step and of the relabel program."""

import collections
import math
import pathlib
import re
import tempfile
import time

import jax
import jax_runners
from cases import Case

STEPS = 5
METADATA = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\S+?)(?:\{[^}]*\})? .*?op_name=\"([^\"]*)\"")


def main(seconds: list[int], batches: list[int] | None, dtypes: list[str], out: pathlib.Path):
    """Profiles each operation once, at the first of each list."""
    batch = batches[0] if batches else (256 if jax.default_backend() != "cpu" else 8)
    for operation in ("train", "relabel"):
        case = Case(operation, seconds[0], batch, dtypes[0])
        try:
            print(profile(case, out), flush=True)
        except Exception as error:
            print(f"[failed] profile of {case}: {type(error).__name__}: {error}", flush=True)


def profile(case: Case, out: pathlib.Path, top: int = 10) -> str:
    """Runs a case a few times under the profiler and says where the device's time went."""
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
    text = program.compiled.as_text()
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{case.operation}_hlo.txt").write_text(text)
    origins = {m[1]: (m[2], m[3]) for m in map(METADATA.match, text.splitlines()) if m}
    total = sum(time_ns for time_ns, _ in kernels.values()) / STEPS / 1e6 or math.nan
    lines = [
        "",
        f"{case}: {step_ms:.2f} ms a step, {total:.2f} ms in {len(kernels)} kernels; the longest:",
    ]
    for name, (time_ns, count) in sorted(kernels.items(), key=lambda item: -item[1][0])[:top]:
        kernel, operation = name
        ms = time_ns / STEPS / 1e6
        # Kernels launched as part of a graph do not say what they compute, but their names do.
        operation = operation or re.sub(r"_(\d+)$", r".\1", kernel)
        words = [operation[:60], *origins.get(operation, ()), kernel[:60]]
        lines.append(
            f"  {ms:8.3f} ms {100 * ms / total:5.1f}% {count / STEPS:5.0f}x  "
            + "  ".join(word for word in words if word)
        )
    lines += ["  by kind:", *_by_kind(kernels, total)]
    return "\n".join(lines)


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


def _by_kind(kernels, total: float) -> list[str]:
    """The same time, by the names of the operations without their numbers."""
    kinds: dict[str, float] = collections.Counter()
    for (kernel, operation), (time_ns, _) in kernels.items():
        kinds[re.sub(r"[.\d]+", "", operation or kernel)[:50]] += time_ns / STEPS / 1e6
    longest = sorted(kinds.items(), key=lambda item: -item[1])[:12]
    return [f"  {ms:8.3f} ms {100 * ms / total:5.1f}%  {kind}" for kind, ms in longest]
