"""A signal to one or to both of two processes, at random moments of a stage: do both end?

    python tests/faults/signals.py --trials 50 --out signals.json

Stages are `relabel` and `evaluate` with a slow teacher, and `train`, which also saves every three
seconds. A trial fails where a process is still there a minute after the signal, or ends with
another status than 75, or where the processes saved different steps. The signals are those of a
launcher, a terminal, Ctrl-C and a cluster, by chance.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

from campaigns import CONFIG, FEWER_OPTIMIZATIONS, ROOT, Preparing, free_address, write_source

RESTART = 75
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)
TIMEOUT = 60  # seconds from the signal to the end
CONNECTED = b"is connected to 1 peer ranks"
TEACHER = """
import time
import numpy as np

def score(waves):
    time.sleep(0.2)
    return np.full((len(waves), 2), 0.5, np.float32)

score.classes = ("loud", "quiet")
"""
TRAIN = {"max_steps": 1_000_000, "validate_every": 1_000_000, "checkpoint_every": 1_000_000}
TRAIN |= {"log_every": 20, "checkpoint_minutes": 0.05}


def command(stage: str, root: pathlib.Path, trial: int) -> list[str]:
    if stage == "train":
        settings = [f"--config.experiments.teacher.train.{k}={v}" for k, v in TRAIN.items()]
        program = [str(ROOT / "tests/helpers/small_main.py"), "--config", str(root / "config.py")]
        data = f"--config.data.data_dir={root / 'prepare-whole'}"
        return [*program, data, f"--workdir={root / 'run'}", *settings]
    (data_set,) = (root / "prepare-whole" / "own_data").glob("*/1.0.0")
    out = f"--out={root / f'{stage}-{trial}'}"
    options = ["--split=train", "--segment_seconds=0.1", "--batch_size=8", out]
    return ["-m", "psl_jax", stage, "python:slow_teacher:score", str(data_set), *options]


def run_trial(
    stage: str, root: pathlib.Path, trial: int, victims: dict[int, signal.Signals], delay: float
) -> str:
    """What came of it, in a word; victims: which process gets which signal."""
    together = ["--distributed", f"--coordinator_address={free_address()}", "--num_processes=2"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{root}", "JAX_PLATFORMS": "cpu"}
    logs = [root / f"{number}.log" for number in range(2)]
    processes = []
    for number, log in enumerate(logs):
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *command(stage, root, trial), *together, f"--process_id={number}"],
                env=environment | FEWER_OPTIMIZATIONS,
                stdout=output,
                stderr=output,
            )
        processes.append(process)
    end = time.monotonic() + 300
    while time.monotonic() < end and not all(CONNECTED in log.read_bytes() for log in logs):
        time.sleep(0.1)
    # Three in four come in the stage itself, the others on the way to it.
    while trial % 4 and time.monotonic() < end and b"%|" not in logs[0].read_bytes():
        time.sleep(0.1)
    time.sleep(delay)
    early = [process.poll() for process in processes]
    for number, sent in victims.items():
        processes[number].send_signal(sent)
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end and any(process.poll() is None for process in processes):
        time.sleep(0.05)
    statuses = [process.poll() for process in processes]
    for process in processes:
        process.kill()
        process.wait()
    if None in statuses:
        return f"hung {statuses}"
    if early != [None, None]:
        return f"ended before the signal {early}"
    saved = [re.findall(rb"step (\d+) is saved", log.read_bytes()) for log in logs]
    if statuses != [RESTART, RESTART] or saved[0] != saved[1]:
        return f"wrong {statuses} {saved}"
    return "saved" if saved[0] else "ended"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--stages", default="relabel,train,evaluate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    flags = parser.parse_args()
    rng = random.Random(flags.seed)
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        write_source(root / "source")
        (root / "config.py").write_text(CONFIG)
        (root / "slow_teacher.py").write_text(TEACHER)
        Preparing(root).reference()
        for trial in range(flags.trials):
            for stage in flags.stages.split(","):
                for numbers in ([rng.randrange(2)], [0, 1]):
                    victims = {number: rng.choice(SIGNALS) for number in numbers}
                    result = run_trial(stage, root, trial, victims, rng.uniform(0, 5))
                    name = f"{stage}, to {'both' if len(victims) == 2 else 'one'}"
                    found[name][result] += 1
                    print(trial, name, *(s.name for s in victims.values()), result, flush=True)
                    if result.startswith(("hung", "wrong")):
                        for number in range(2):
                            print((root / f"{number}.log").read_text(errors="replace")[-3000:])
                    if flags.out:
                        flags.out.write_text(json.dumps(found, indent=2))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
