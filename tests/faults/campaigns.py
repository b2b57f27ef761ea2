"""Commands that are killed and given again until they end, and are then as if undisturbed.

Each campaign is one kind of command; `kills.py` says how many kills it gets.
"""

import atexit
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np
import soundfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

import small_network  # noqa: E402
import small_suite  # noqa: E402
from programs import free_address  # noqa: E402

TIMEOUT = 900  # seconds until a process counts as hanging
PEERS_END = 60  # seconds in which a process notices that another one is gone, and 30 s to leave
CLIPS = {"train": 48, "eval": 16}
RESTART = 75
FEWER_OPTIMIZATIONS = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # each start compiles
STAGES = [("teacher", name) for name in ("train", "average", "evaluate")]
STAGES += [("student", name) for name in ("relabel", "train", "average", "evaluate")]

CONFIG = """
from psl_jax import config

def get_config():
    result = config.base()
    result.data.corpus = "tfds"
    result.data.train_split = result.data.validation_split = "train"
    result.data.eval_split = "eval"
    result.segment_seconds = 2.0
    result.model.width = 0.1
    result.train.batch_size = result.evaluate.batch_size = 8
    result.train.learning_rate = 1e-2
    result.train.epochs, result.train.log_every, result.train.checkpoint_every = 2, 1, 1
    result.experiments = {
        "teacher": {"labels": "weak"},
        "student": {"labels": "soft", "segment_seconds": 1.0, "teacher": "teacher"},
    }
    return result
"""


@dataclasses.dataclass
class Kill:
    """One death: what was aimed at, by what, and what the processes said."""

    campaign: str
    stage: str
    signal: str
    statuses: list[int]
    seconds_until_others_left: float = 0.0


def write_source(folder: pathlib.Path) -> None:
    """Splits of noises whose loudness tells their class, 2 s each."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in CLIPS.items():
        rows = ["filename,labels"]
        for number in range(count):
            noise = rng.standard_normal(32_000) * (0.02 if number % 2 else 0.2)
            soundfile.write(folder / f"{split}{number:03d}.wav", noise.clip(-1, 1), 16_000)
            rows.append(f"{split}{number:03d}.wav,{'quiet' if number % 2 else 'loud'}")
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")


# --- whether a run is the same as another, bit for bit -------------------------------------------


class FaultError(Exception):
    """Something was lost, hung, or came out otherwise."""


def same(what: str, ours: object, theirs: object) -> None:
    if ours == theirs:
        return
    detail = ""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted({*ours, *theirs}, key=str)
        detail = str([key for key in keys if ours.get(key) != theirs.get(key)])
    raise FaultError(f"{what} differs from the undisturbed run {detail}")


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """Contents of all files below a folder, but for when a report was made."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (".lock", "report.txt"):
            content = path.read_bytes()
            if path.name == "report.json":
                content = json.dumps(json.loads(content) | {"made": ""}).encode()
            found[str(path.relative_to(folder))] = content
    return found


def arrays(run: pathlib.Path) -> list[np.ndarray]:
    with np.load(run / "scores.npz") as stored:
        return [stored[name] for name in sorted(stored.files)]


# --- campaigns ------------------------------------------------------------------------------------


class Campaign:
    """A command that is killed and given again until it ends, again and again."""

    name: str
    processes = 1
    may_trace = False  # whether a traceback may be told of what came to nothing
    environment: Mapping[str, str] = {}

    def __init__(self, root: pathlib.Path):
        self.root, self.whole = root, root / f"{self.name}-whole"
        self.folder, self._runs = root / f"{self.name}-0", 0
        self.durations: dict[str, float] = {}  # of stages, undisturbed

    def commands(self, folder: pathlib.Path) -> list[list[str]]:
        """What is started, one for each process."""
        raise NotImplementedError

    def stage(self, folder: pathlib.Path) -> str:
        """What is being done or will be when the command is given again; "" at the end."""
        raise NotImplementedError

    def compare(self) -> None:
        """Raises FaultError where `folder` is other than `whole`."""
        raise NotImplementedError

    @property
    def is_begun(self) -> bool:
        return self.folder.exists()

    def joined(self) -> bool:
        """Whether the processes that were started have met."""
        return True

    def reference(self) -> None:
        """Runs undisturbed, and notes how long each stage takes."""
        running = self.start(self.whole)
        entered = {self.stage(self.whole): time.monotonic()}
        while any(process.poll() is None for process in running):
            entered.setdefault(self.stage(self.whole), time.monotonic())
            time.sleep(0.05)
        times = [*entered.values(), time.monotonic()]
        self.durations = dict(zip(entered, np.diff(times).tolist(), strict=True))
        self._check(running, [0])

    def start(self, folder: pathlib.Path) -> list[subprocess.Popen]:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        environment |= FEWER_OPTIMIZATIONS | dict(self.environment)
        self.log = open(f"{folder}.log", "ab")  # noqa: SIM115
        self.log_before = self.log.tell()
        return [
            subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)
            for command in self.commands(folder)
        ]

    def disturb(self, rng: random.Random) -> Kill | None:
        """Starts, kills at a random moment of a random stage; None where the run ended before."""
        if self.is_begun and not self.stage(self.folder):
            return None
        left = list(self.durations)
        now = self.stage(self.folder) if self.is_begun else left[0]
        aim = rng.choice(left[left.index(now) :][:2])
        running = self.start(self.folder)
        before = set(left[: left.index(aim)])
        self._wait_until(running, lambda: self.joined() and self.stage(self.folder) not in before)
        time.sleep(rng.uniform(0, max(self.durations[aim], 0.05)))
        victim = rng.randrange(len(running))
        if running[victim].poll() is not None:
            self._check(running, [0])
            return None
        sent = signal.SIGTERM if rng.random() < 0.3 else signal.SIGKILL
        stage = self.stage(self.folder)
        running[victim].send_signal(sent)
        at = time.monotonic()
        # Where the first of several is killed, JAX's coordinator, JAX aborts the others.
        aborted = [-signal.SIGABRT] if len(running) > 1 and victim == 0 else []
        self._check(running, [0, RESTART, -signal.SIGKILL, -signal.SIGTERM, *aborted])
        waited = time.monotonic() - at
        if not any(process.returncode for process in running):
            return None  # it was as good as at its end
        if waited > PEERS_END + 30 and sent == signal.SIGKILL:
            raise FaultError(f"{self.name}: the other process left after {waited:.0f} s only")
        return Kill(
            self.name, stage, sent.name, [process.returncode for process in running], waited
        )

    def finish(self) -> None:
        """Gives the command once more, undisturbed, and compares; the next run is a new one."""
        self._check(self.start(self.folder), [0])
        self.compare()
        self._runs += 1
        self.folder = self.root / f"{self.name}-{self._runs}"

    def _wait_until(self, running: Sequence[subprocess.Popen], is_time) -> None:
        end = time.monotonic() + TIMEOUT
        while not is_time() and all(process.poll() is None for process in running):
            if time.monotonic() > end:
                raise FaultError(f"{self.name}: hangs; see {self.log.name}")
            time.sleep(0.01)

    def _check(self, running: Sequence[subprocess.Popen], expected: Sequence[int]) -> None:
        try:
            statuses = [process.wait(TIMEOUT) for process in running]
        except subprocess.TimeoutExpired as error:
            raise FaultError(f"{self.name}: hangs; see {self.log.name}") from error
        finally:
            for process in running:
                process.kill()
        self.log.close()
        output = pathlib.Path(self.log.name).read_text(errors="replace")
        traced = "Traceback" in output and not self.may_trace
        if not set(statuses) <= set(expected) or traced:
            raise FaultError(f"{self.name}: statuses {statuses}\n{output[-6000:]}")


class Preparing(Campaign):
    name = "prepare"

    def commands(self, folder: pathlib.Path) -> list[list[str]]:
        options = ["--corpus=own_data", f"--source_dir={self.root / 'source'}"]
        return [[sys.executable, "-m", "psl_jax", "prepare", *options, f"--data_dir={folder}"]]

    def stage(self, folder: pathlib.Path) -> str:
        if list(folder.glob("own_data/*/1.0.0")):
            return ""
        begun = list(folder.glob("own_data/*/incomplete.*/part-*"))
        return "shards" if begun else "start"

    def compare(self) -> None:
        ours, theirs = (files(folder) for folder in (self.folder, self.whole))
        same(self.name, ours, theirs)


class Suite(Campaign):
    name = "one"

    def commands(self, folder: pathlib.Path) -> list[list[str]]:
        program = [sys.executable, str(ROOT / "tests/helpers/small_main.py")]
        program += ["--config", str(self.root / "config.py"), "--workdir", self._where(folder)]
        program += [f"--config.data.data_dir={self._data_dir()}"]
        if self.processes == 1:
            return [program]
        program += ["--distributed", f"--coordinator_address={free_address()}"]
        program += [f"--num_processes={self.processes}"]
        return [[*program, f"--process_id={number}"] for number in range(self.processes)]

    def _where(self, folder: pathlib.Path) -> str:
        return str(folder)

    def _read(self, folder: pathlib.Path, place: str) -> bytes:
        return (folder / place).read_bytes()

    def _data_dir(self) -> pathlib.Path:
        data = self.root / "prepare-whole"
        if not data.exists():
            Preparing(self.root).reference()
        return data

    def stage(self, folder: pathlib.Path) -> str:
        for experiment, stage in STAGES:
            try:
                done = json.loads(self._read(folder, f"{experiment}/stages.json"))
            except (OSError, ValueError):
                done = {}
            if stage not in done:
                return f"{experiment} {stage}"
        with contextlib.suppress(OSError):
            self._read(folder, "results.json")
            return ""
        return "report"

    def compare(self) -> None:
        from psl_jax.networks import mobilenetv2
        from psl_jax.weights.load_model import load_model

        mobilenetv2.INVERTED_RESIDUALS = small_network.SHALLOW
        for experiment in ("teacher", "student"):
            ours, theirs = (folder / experiment for folder in (self.folder, self.whole))
            logs = ((run / "train_log.jsonl").read_text() for run in (ours, theirs))
            same(experiment, *map(small_suite.logged, logs))
            for name in ("metrics.json", "per_class.csv"):
                same(name, (ours / name).read_bytes(), (theirs / name).read_bytes())
            known = [json.loads((run / "data.json").read_text()) for run in (ours, theirs)]
            same("data.json", *known)  # its entries come in the order in which they were needed
            labels = [files(run / "soft_labels") for run in (ours, theirs)]
            same("soft labels", *labels)
            for first, second in zip(arrays(ours), arrays(theirs), strict=True):
                same("scores", first.tobytes(), second.tobytes())
            same("weights", *(load_model(run).digest for run in (ours, theirs)))


class TwoProcesses(Suite):
    """Killed once both have met: whoever is alone before that is waited for, for 300 s."""

    name = "two"
    processes = 2

    def joined(self) -> bool:
        with open(self.log.name, "rb") as log:
            log.seek(self.log_before)
            return log.read().count(b"is connected to 1 peer ranks") == 2


class InBucket(Suite):
    """In a bucket of a server on loopback; compared with a local run."""

    name = "gs"
    may_trace = True  # Orbax's event loop is closed before what it writes to has answered

    def __init__(self, root: pathlib.Path):
        super().__init__(root)
        import bucket_server

        (root / "server").mkdir(exist_ok=True)
        open_till_the_end = contextlib.ExitStack()
        serving = (
            bucket_server.serving_s3()
            if self.name == "s3"
            else bucket_server.serving(root / "server")
        )
        self.bucket = open_till_the_end.enter_context(serving)
        atexit.register(open_till_the_end.close)
        self.environment = self.bucket.environment

    @property
    def is_begun(self) -> bool:
        return bool(self.bucket.names(f"{self.folder.name}/"))

    def reference(self) -> None:
        """The stages' durations are those in the bucket, the digits those of a local run."""
        super().reference()
        local = Suite(self.root)
        if not local.whole.exists():
            local.reference()
        self.whole = local.whole

    def compare(self) -> None:
        for name in self.bucket.names(f"{self.folder.name}/"):
            copy = self.folder.parent / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(self.bucket.get(name))
        super().compare()

    def _where(self, folder: pathlib.Path) -> str:
        return f"{self.bucket.url}/{folder.name}"

    def _read(self, folder: pathlib.Path, place: str) -> bytes:
        try:
            return self.bucket.get(f"{folder.name}/{place}")
        except AssertionError as error:  # not found
            raise FileNotFoundError(place) from error


class InS3Bucket(InBucket):
    name = "s3"
