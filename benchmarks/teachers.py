"""EfficientAT's mn here, in PyTorch and in onnxruntime: segments a second, in alternating rounds.

    python benchmarks/teachers.py --weights mn04_as_mAP_432.pt --seconds 2,10 --out teachers.json

From int16 segments at 16 kHz to probabilities (whole), and from features (network). PyTorch in both
memory formats, BatchNorms folded; onnxruntime gets PyTorch's features
(by SciPy they took longer). Without --weights random
ones of --width. Medians over rounds in which all take turns. Other work on the machine disturbs
all alike, but not at the same time: look at the spread. PyTorch's threads do not spin
(OMP_WAIT_POLICY=PASSIVE unless given), onnxruntime is tried both ways: on a busy machine threads
that spin lose most.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax
import numpy as np
from mn_elsewhere import onnx_network, torch_log_mel, torch_network
from runners import Runner, Schedule, alternate, calibrate

from psl_jax.networks.folding import JaxOperations, frame_probabilities
from psl_jax.networks.mn import MN
from psl_jax.networks.mn_frontend import MnFrontEnd
from psl_jax.runtime import parallel
from psl_jax.scoring.scorer import scoring_program
from psl_jax.weights.load_model import load_model

CLASSES = 527


def ours(folded, audio):
    """(whole, network) of a batch: functions that run and wait."""
    mesh = parallel.local_mesh()
    placed, front_end = parallel.replicate(folded, mesh), MnFrontEnd()
    inputs = parallel.put_batch(
        {"audio": audio, "num_samples": np.full(len(audio), audio.shape[1], np.int32)}, mesh
    )
    program = scoring_program(front_end, "float32", mesh)
    features = jax.jit(front_end)(audio)

    @jax.jit
    def alone(network, x):
        return frame_probabilities(network, x, JaxOperations())[:, 0]

    return (
        lambda: np.asarray(program(placed, inputs["audio"], inputs["num_samples"])),
        lambda: np.asarray(alone(placed, features)),
        np.asarray(features),
    )


def cases(folded, audio):
    """{what: {name: function}}, all of the same batch."""
    import torch

    whole, alone, features = ours(folded, audio)
    log_mel, wave = torch_log_mel(), torch.tensor(audio)
    theirs = torch.tensor(features)
    result = {"whole": {"psl_jax": whole}, "network": {"psl_jax": alone}}
    for spinning in (True, False):
        name = "onnxruntime" + " without spinning" * (not spinning)
        run = onnx_network(folded, spinning)
        result["whole"][name] = lambda run=run: run(log_mel(wave).numpy())
        result["network"][name] = lambda run=run: run(features)
    for last in (True, False):
        name = f"PyTorch {'channels_last' if last else 'contiguous'}"
        run = torch_network(folded, last)
        result["whole"][name] = lambda run=run: run(log_mel(wave)).numpy()
        result["network"][name] = lambda run=run: run(theirs).numpy()
    expected = whole()
    for kind, functions in result.items():
        for name, function in functions.items():
            worst = float(np.abs(function() - expected).max())
            if worst > 1e-3:
                raise SystemExit(f"{name} ({kind}) differs by {worst:g}")
    return result


def measured(functions, batch, schedule):
    """Segments a second of each: median, least and most over rounds."""

    def repeated(function):
        def run(times):
            for _ in range(times):
                function()

        return run

    runners = [Runner(name, repeated(function)) for name, function in functions.items()]
    for runner in runners:
        calibrate(runner, schedule)
    alternate(runners, schedule)
    return {
        one.name: [
            round(batch * rate, 1)
            for rate in (statistics.median(one.rates), min(one.rates), max(one.rates))
        ]
        for one in runners
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--weights", help="published .pt or .safetensors")
    add("--width", type=float, default=0.4, help="of random weights (default: 0.4)")
    add("--seconds", default="2,10", help="of segments (default: 2,10)")
    add("--batch", type=int, default=64)
    add("--rounds", type=int, default=9)
    add("--out", default="teachers.json")
    arguments = parser.parse_args()
    if arguments.weights:
        model = load_model(arguments.weights)
        folded, width = model.folded, model.info.width
    else:
        folded, width = MN.fold(MN.create(CLASSES, arguments.width)[1], "sigmoid"), arguments.width
    schedule = Schedule(rounds=arguments.rounds, round_seconds=0.5, case_seconds=120)
    rng, found = np.random.default_rng(0), []
    for seconds in map(float, arguments.seconds.split(",")):
        shape = arguments.batch, round(seconds * 16_000)
        audio = np.clip(rng.normal(0, 3000, shape), -32_768, 32_767).astype(np.int16)
        for what, functions in cases(folded, audio).items():
            rates = measured(functions, arguments.batch, schedule)
            found.append({"what": what, "seconds": seconds, "segments_per_second": rates})
            best = max(rate[0] for name, rate in rates.items() if name != "psl_jax")
            print(f"mn of width {width:g}, {what}, {seconds:g} s x {arguments.batch}:")
            for name, (median, least, most) in rates.items():
                print(f"  {name:28} {median:8.1f} segments/s ({least:.1f} to {most:.1f})")
            print(f"  {rates['psl_jax'][0] / best:.2f} x the better of the others", flush=True)
    about = {"width": width, "batch": arguments.batch, "cores": os.cpu_count(), "results": found}
    pathlib.Path(arguments.out).write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
