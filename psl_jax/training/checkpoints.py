"""Orbax checkpoints: the latest, the best by mAP, their average."""

import contextlib
import json
import os
import pathlib
import tempfile
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from flax import serialization
from orbax.checkpoint import v1 as ocp

from psl_jax.networks.architecture import Variables
from psl_jax.runtime import files, interrupts, parallel
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import absolute, is_remote, remove_tree
from psl_jax.weights import orbax_folder

_WHOLE = "commit_success.txt"  # written last; Orbax's own name for it in a bucket


class CheckpointMirror:
    """A copy of a folder of checkpoints in a bucket, which Orbax uses; process 0 sends its own."""

    def __init__(self, place: pathlib.Path):
        self._place = place
        self._temporary = tempfile.TemporaryDirectory(prefix="psl_jax-")
        self.folder = pathlib.Path(self._temporary.name)
        self._thread = ThreadPoolExecutor(1)
        self._sent = {path.parent.name for path in place.glob(f"*/{_WHOLE}")}
        for step in self._sent:
            (place / step).download(self.folder / step)  # type: ignore[attr-defined]

    def send_after(self, saving: Any) -> Future[None]:
        """Sends the folder in a thread, once Orbax has written it."""

        def send() -> None:
            saving.result()
            steps = {path.name for path in self.folder.iterdir() if path.name.isdecimal()}
            if jax.process_index() != 0:
                steps = self._sent
            for step in steps - self._sent:
                remove_tree(self._place / step)  # what a killed process sent
                (self._place / step).upload(self.folder / step)  # type: ignore[attr-defined]
                (self._place / step / _WHOLE).write_bytes(b"")
            for step in self._sent - steps:
                (self._place / step / _WHOLE).unlink(missing_ok=True)
                remove_tree(self._place / step)
            self._sent = steps

        return self._thread.submit(send)

    def close(self) -> None:
        self._thread.shutdown()
        self._temporary.cleanup()


_MAP, _STEP = "mAP", "step"
_CRC = "crc32"
_DELETE = "delete that folder and give the same command again, which goes on from the one before"
_ADVICE = "Run the same command again, which goes on from the last checkpoint."


class TrainingCheckpoints:
    """A run's latest checkpoint, and the `num_best` ones of highest validation mAP.

    Where nothing is validated, the best are the last ones of those that are saved with a metric.
    """

    def __init__(
        self, directory: str | os.PathLike[str], num_best: int = 4, *, is_validated: bool = True
    ):
        self.directory = absolute(directory)
        self.num_best, self._metric = num_best, _MAP if is_validated else _STEP
        self._mirror = CheckpointMirror(self.directory) if is_remote(self.directory) else None
        folder = self._mirror.folder if self._mirror else self.directory
        policies = ocp.training.preservation_policies
        best_policy = policies.BestN(
            get_metric_fn=lambda metrics: metrics[self._metric],
            n=num_best,
            keep_checkpoints_without_metrics=False,
        )
        with (
            interrupts.defer_signals(),
            orbax_folder.explain_damage(_unreadable(folder), _DELETE),
        ):
            self._checkpointer = ocp.training.Checkpointer(
                orbax_folder.make_orbax_path(folder),
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(1), best_policy]
                ),
                cleanup_tmp_directories=True,
            )
        self._saving: Any = None  # what is being written by another thread

    def __enter__(self) -> "TrainingCheckpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        # A failed save is raised here once more.
        with interrupts.defer_signals(), plain_disk_errors(self.directory, _ADVICE):
            try:
                self._finish()
                self._checkpointer.close()
            finally:
                if self._mirror:
                    self._mirror.close()

    def save(self, step: int, state: Any, metric: float | None = None) -> None:
        """Begins to save `state`; only with a metric, mAP or step, can it become one of the best.

        It is written while training goes on; the next save, a read or the end waits for it. What
        lies in `state` may be overwritten as soon as this returns. Raises UserError where this or
        the save before cannot be written.
        """
        metrics = None if metric is None else {self._metric: metric}
        # Copies, on the host: the next step is made in the memory that holds the state now.
        tree = jax.tree.map(np.array, serialization.to_state_dict(parallel.to_host(state)))
        self._finish()
        about = {self._metric: metric}
        with interrupts.defer_signals(), plain_disk_errors(self.directory, _ADVICE):
            saving = self._checkpointer.save_async(
                step, tree, metrics=metrics, custom_metadata=about | {_CRC: _crc(tree, about)}
            )
        self._saving = saving if self._mirror is None else self._mirror.send_after(saving)

    def _finish(self) -> None:
        """Waits for what is being written; raises what went wrong there."""
        saving, self._saving = self._saving, None
        if saving is not None:
            with plain_disk_errors(self.directory, _ADVICE):
                saving.result()

    def restore(self, state: Any) -> Any:
        """The latest checkpoint, placed like `state`, or `state`; UserError for another network."""
        self._finish()
        latest = self._checkpointer.latest
        if latest is None:
            return state
        tree = self._load(latest.step)
        ours = serialization.to_state_dict(parallel.to_host(state))
        forms = [jax.tree.map(lambda x: (x.shape, x.dtype.name), x) for x in (tree, ours)]
        if forms[0] != forms[1]:
            raise UserError(
                f"the checkpoint of step {latest.step} in {self.directory} is of another network; "
                "give another --workdir, or delete that folder"
            )
        # From each process's own copy: device_put onto devices of several processes would compare
        # their values, a collective for each of hundreds of arrays.
        return jax.tree.map(
            lambda x, new: jax.make_array_from_process_local_data(x.sharding, new),
            state,
            serialization.from_state_dict(state, tree),
        )

    def _load(self, step: int) -> dict[str, Any]:
        """The state as nested dicts of NumPy arrays."""
        self._finish()
        arrays, about = self._metadata(step)
        crc = about.pop(_CRC, None)
        with self._explain_damage(step):
            loaded = self._checkpointer.load(step, orbax_folder.make_restore_target(arrays))
            tree: dict[str, Any] = jax.tree.map(np.asarray, loaded)
            if crc != _crc(tree, about):
                raise ValueError("its contents fail their checksum")
            return tree

    def _metadata(self, step: int) -> tuple[Any, dict[str, Any]]:
        """What Orbax knows of a checkpoint's arrays, and what was noted with them."""
        with self._explain_damage(step):
            metadata = self._checkpointer.metadata(step)
            return metadata.metadata, dict(metadata.custom_metadata or {})

    def _explain_damage(self, step: int) -> contextlib.AbstractContextManager[None]:
        return orbax_folder.explain_damage(self.directory / str(step), _DELETE)

    def steps(self) -> list[int]:
        self._finish()
        return [info.step for info in self._checkpointer.checkpoints]

    def best_steps(self) -> list[int]:
        """Steps of the best checkpoints, the highest metric first, on a tie the later step."""
        self._finish()
        # As noted with the arrays: of these values the checksum is.
        noted = [
            (self._metadata(info.step)[1].get(self._metric, info.metrics[self._metric]), info.step)
            for info in self._checkpointer.checkpoints
            if info.metrics
        ]
        return [step for _, step in sorted(noted, reverse=True)[: self.num_best]]

    def load_variables(self, step: int) -> Variables:
        """The network's variables at `step`, as NumPy arrays."""
        return orbax_folder.restore_variables(self._load(step)["variables"])

    def average_best(self) -> tuple[Variables, list[int]]:
        """Mean of the best checkpoints' parameters and BatchNorm statistics, taken in float64."""
        steps = self.best_steps()
        if not steps:
            raise UserError(
                f"{self.directory} holds no validated checkpoint to average: put them back, or "
                "delete stages.json beside it, and give the same command again"
            )
        return average([self.load_variables(step) for step in steps]), steps


def average(variables: list[Variables]) -> Variables:
    """Mean of several sets of variables, taken in float64 and returned in the original type."""

    def mean(*arrays: np.ndarray) -> np.ndarray:
        total = np.sum([np.asarray(array, np.float64) for array in arrays], axis=0)
        return np.asarray(total / len(arrays), np.asarray(arrays[0]).dtype)

    averaged: Variables = jax.tree.map(mean, *variables)
    return averaged


def _crc(tree: dict[str, Any], about: dict[str, Any]) -> int:
    """Over the arrays and what is told of them, as JSON has it."""
    text = json.dumps(about, sort_keys=True).encode()
    return orbax_folder.compute_array_crc(jax.tree.leaves(tree), zlib.crc32(text))


def _unreadable(directory: pathlib.Path) -> pathlib.Path:
    """The checkpoint whose metadata or metrics cannot be read; `directory` where there is none."""
    for path in sorted(path for path in directory.glob("*") if path.name.isdecimal()):
        try:
            ocp.metadata(os.fspath(path))
            files.read_json(path / "metrics" / "metrics")
        except FileNotFoundError:
            continue
        except Exception:  # of Orbax, of many kinds
            return path
    return directory
