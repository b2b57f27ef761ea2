"""Segments a second of psl_jax beside the best of PyTorch, ONNX Runtime and OpenVINO here.

    python benchmarks/throughput.py                       # everything, sized for this machine
    python benchmarks/throughput.py --only train,relabel --seconds 2 --batch 256,512 --dtypes bf16
    python benchmarks/throughput.py --profile             # what the device spends its time on

For each case psl_jax and the variants of the others run in alternating rounds of one process; rates
are medians over rounds, ratios medians of the rounds' ratios. Needs JAX; of the other libraries
those are measured that are installed, ONNX Runtime and OpenVINO on a CPU only. No TensorFlow.
Appends a JSON line for each case to --out as soon as it is measured.
"""

import argparse
import importlib
import importlib.util
import json
import os
import pathlib
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

# All libraries share one device: JAX must not take all of its memory at the start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from psl_jax.runtime import huge_pages

if __name__ == "__main__":
    huge_pages.restart_with_them()  # as psl_jax.main does: all libraries get them

import jax
import jax_runners
import numpy as np
from cases import OPERATIONS, Case, make_shallow, minimum_bytes, minimum_flops
from runners import Runner, Schedule, alternate, calibrate, ratio

START = time.perf_counter()
ON_GPU = jax.default_backend() != "cpu"
DTYPES = {"f32": "float32", "bf16": "bfloat16", "float32": "float32", "bfloat16": "bfloat16"}
# Batches by segment length, where none are asked for.
BATCHES = {2: (256, 1024), 10: (64, 256)} if ON_GPU else {2: (32,), 10: (8,)}
# Sets of options of XLA to try beside the default ones, by name.
XLA_OPTIONS = {
    "no_command_buffers": {"xla_gpu_graph_min_graph_size": 1_000_000},
    "latency_hiding": {"xla_gpu_enable_latency_hiding_scheduler": True},
    "no_fast_math": {"xla_cpu_enable_fast_math": False},  # a CPU has none of the others
}


def main() -> None:
    flags = _flags()
    if flags.shallow:
        make_shallow()
    libraries = [importlib.import_module(name) for name in _others(flags)]
    device = jax.devices()[0]
    machine = {"device": f"{device.device_kind} ({os.cpu_count()} CPU cores)"}
    machine["jax"] = f"jax {jax.__version__}, Python {sys.version.split()[0]}"
    machine["others"] = "; ".join(library.set_up() for library in libraries)
    machine["command"] = " ".join(["python", *sys.argv])
    print("; ".join(machine[key] for key in ("device", "jax", "others")), flush=True)
    ceilings = _ceilings(libraries, flags)
    _append(flags.out, {"machine": machine, "ceilings": ceilings})
    if flags.profile:
        import kernel_profile

        for case in _cases(flags):
            result = kernel_profile.profile(case, ceilings["bytes_per_second"])
            _append(flags.out, {"kernels": str(case), **result})
        return
    print(best_batches(_measure(flags, ceilings, libraries)))


def _append(path: pathlib.Path, line: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _measure(flags, ceilings: dict, libraries: list) -> list[dict]:
    """Runs the cases in order of interest until the time is used up."""
    results = []
    for case in _cases(flags):
        if time.perf_counter() - START > flags.budget:
            print(f"[left out: the {flags.budget:g} s are used up] {case}", flush=True)
            continue
        start = time.perf_counter()
        try:
            results.append(_run_case(case, flags, ceilings, libraries))
        except Exception as error:
            _report_failure(str(case), error)
            continue
        finally:
            for library in libraries:
                library.release()
        _append(flags.out, results[-1])
        spent = time.perf_counter() - start
        print(f"{one_line(results[-1])}   [{spent:.0f} s]", flush=True)
    return results


def _run_case(case: Case, flags, ceilings: dict, libraries: list) -> dict:
    """Measures one case; what fails of the others is reported and left out."""
    schedule = Schedule(
        flags.rounds, flags.round_seconds, flags.case_seconds, 0.0 if ON_GPU else 0.3
    )
    sets = [None, *(XLA_OPTIONS[name] for name in flags.xla_options)]
    programs = [jax_runners.Program(case, options) for options in sets]
    with ThreadPoolExecutor() as pool:  # compiles while the others do
        compiling = [pool.submit(program.compile) for program in programs]
        others = []
        for library in libraries:
            for variant in library.variants(case, flags.torch_compile):
                try:
                    runner = library.make_runner(case, variant)
                    calibrate(runner, schedule)
                    others.append(runner)
                except Exception as error:
                    _report_failure(f"{case}: {variant}", error)
        ours = [future.result().runner() for future in compiling]
    for runner in ours:
        calibrate(runner, schedule)
    alternate([*ours, *others], schedule)
    return _result(case, ours, others, ceilings)


def _result(case: Case, ours: list[Runner], others: list[Runner], ceilings: dict) -> dict:
    best = max(others, key=lambda runner: runner.rate, default=None)
    flops, moved = minimum_flops(case), minimum_bytes(case)
    own, copy = ours[0], ceilings["bytes_per_second"]
    exact = None
    if own.result is not None:
        exact = jax_runners.Program(case.in_float32()).compile().result()
    result = {
        "operation": case.operation,
        "seconds": case.seconds,
        "batch": case.batch,
        "dtype": case.dtype,
        **_rates(case, own, own, exact),
        "compile_seconds": own.compile_seconds,
        "peak_bytes": own.peak_bytes,
        "xla_flops": own.flops,
        "xla_bytes": own.bytes,
        "matmul_fraction": flops * own.rate / ceilings["flops_per_second"][case.dtype],
        "copy_fraction": own.bytes * own.rate / copy if own.bytes else None,
        "bandwidth_floor_fraction": moved * own.rate / copy,
        "others": {one.name: _rates(case, one, own, exact) for one in [*ours[1:], *others]},
    }
    if best is not None:
        result |= {
            "best_other": best.name,
            "best_other_segments_per_second": best.rate * case.batch,
            "ratio": ratio(own, best),
        }
    return result


def _rates(case: Case, runner: Runner, ours: Runner, exact: np.ndarray | None) -> dict:
    """error: of probabilities, root mean square in standard deviations of ours in float32."""
    rates = {
        "segments_per_second": runner.rate * case.batch,
        "cpu_ms_per_segment": 1e3 * float(np.median(runner.cpu_seconds)) / case.batch,
        "ours_by_this": ratio(ours, runner),
        "first_call_seconds": runner.compile_seconds,
        "peak_bytes": runner.peak_bytes,
        "rates": [rate * case.batch for rate in runner.rates],
    }
    if exact is not None and runner.result is not None:
        error = np.sqrt(np.mean(np.square(runner.result() - exact)))
        rates["error"] = float(error / exact.std())
    return rates


def _cases(flags) -> list[Case]:
    """All cases, the most telling first: half precision on an accelerator, training, relabeling."""
    cases = []
    for dtype in flags.dtypes:
        for operation in OPERATIONS:
            if operation in flags.only.split(","):
                for seconds in flags.seconds:
                    kind = "float32" if operation == "frontend" else dtype
                    batches = flags.batch or BATCHES.get(seconds, (32,))
                    batches = (1,) if operation == "tag" else batches
                    cases += [Case(operation, seconds, batch, kind) for batch in batches]
    return list(dict.fromkeys(cases))


def _ceilings(libraries: list, flags) -> dict:
    """What this machine can do at best: matrix products in each type, and copies."""
    able = [jax_runners, *(one for one in libraries if hasattr(one, "matmul_ceiling"))]
    size, copied, repeats = (8192, 2**31, 8) if ON_GPU else (2048, 2**28, 2)
    if flags.shallow:
        size, copied = 256, 2**20
    flops = {}
    for dtype in sorted({"float32", *flags.dtypes}):
        flops[dtype] = max(library.matmul_ceiling(dtype, size, repeats) for library in able)
        print(f"ceiling: {flops[dtype] / 1e12:.3g} TFLOP/s, {dtype} product of {size}", flush=True)
    moved = max(library.copy_ceiling(copied, repeats) for library in able)
    print(f"ceiling: {moved / 1e9:.4g} GB/s, copy, read and written bytes counted", flush=True)
    return {"flops_per_second": flops, "bytes_per_second": moved}


def _others(flags) -> list[str]:
    """The modules of what is installed of the other libraries, and asked for."""
    modules = []
    if "torch" in flags.others and importlib.util.find_spec("torch"):
        modules.append("torch_runners")
    if "onnx" in flags.others and not ON_GPU and importlib.util.find_spec("onnx"):
        modules.append("onnx_runners")
    return modules


def one_line(result: dict) -> str:
    """A case, and below it each of the others."""
    lines = [
        f"{result['operation']:8} {result['seconds']:2} s x {result['batch']:<4} "
        f"{result['dtype']:8} {_describe_rates(result)}, "
        f"{result['matmul_fraction']:.2f} of a product's rate"
    ]
    lines += [f"    {_describe_rates(one)}  {name}" for name, one in result["others"].items()]
    return "\n".join(lines)


def _describe_rates(one: dict) -> str:
    error = f", error {one['error']:.1e}" if "error" in one else ""
    return (
        f"{one['segments_per_second']:9,.1f} segments/s, {one['cpu_ms_per_segment']:8.3f} ms of "
        f"CPU, ours is {one['ours_by_this']:.2f} x this{error}"
    )


def best_batches(results: list[dict]) -> str:
    """The best batch of each side, for each operation, length and type."""
    lines = ["Each side at its best batch:"]
    groups: dict[tuple, list[dict]] = {}
    for result in results:
        key = tuple(result[name] for name in ("operation", "seconds", "dtype"))
        groups.setdefault(key, []).append(result)
    for (operation, seconds, dtype), group in groups.items():
        ours = max(group, key=lambda r: r["segments_per_second"])
        line = f"{operation} {seconds} s {dtype}: {ours['segments_per_second']:,.0f} segments/s "
        line += f"(batch {ours['batch']})"
        compared = [result for result in group if "best_other" in result]
        if compared:
            other = max(compared, key=lambda r: r["best_other_segments_per_second"])
            rate = other["best_other_segments_per_second"]
            line += f", {other['best_other']} {rate:,.0f} (batch {other['batch']}), "
            line += f"ratio {ours['segments_per_second'] / rate:.2f}"
        lines.append(line)
    return "\n".join(lines)


def _report_failure(what: str, error: Exception) -> None:
    print(f"[failed] {what}: {type(error).__name__}: {str(error)[:600]}", flush=True)
    traceback.print_exc(limit=-3)


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument

    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    def dtypes(text: str) -> list[str]:
        return [DTYPES[word] for word in text.split(",")]

    def words(text: str) -> list[str]:
        return [word for word in text.split(",") if word]

    add("--only", default=",".join(OPERATIONS), help="operations")
    add("--seconds", type=numbers, default=[2, 10], help="segment lengths")
    add("--batch", type=numbers, help=f"batch sizes (default by length: {BATCHES})")
    add("--dtypes", type=dtypes, default="bf16,f32" if ON_GPU else "f32,bf16", help="f32, bf16")
    add("--rounds", type=int, default=5)
    add("--round_seconds", type=float, default=0.3 if ON_GPU else 2.0)
    add("--case_seconds", type=float, default=20.0 if ON_GPU else 120.0)
    add("--budget", type=float, default=300.0 if ON_GPU else 3600.0, help="start no case later")
    add("--others", type=words, default="torch,onnx", help="torch, onnx (ONNX Runtime, OpenVINO)")
    add("--torch_compile", type=words, default="default" if ON_GPU else "", help="modes to try too")
    add("--xla_options", type=words, default="", help=f"to try too: {', '.join(XLA_OPTIONS)}")
    add("--profile", action="store_true", help="the fifteen longest kernels instead")
    add("--shallow", action="store_true", help="a tiny network: only to try this program")
    add("--out", type=pathlib.Path, default=pathlib.Path("runs/throughput.jsonl"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
