"""What a run folder was made with: settings, data and teacher, by their contents.

Where they lie may change. What they are may not: a run that went on over other clips would end in
a table that is true of neither.
"""

import os
from collections.abc import Iterable
from typing import Any

import jax

from psl_jax import config as config_lib
from psl_jax.config import Settings
from psl_jax.data.clip_index import ClipIndex
from psl_jax.runtime import files, parallel, run_files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of, remove_tree
from psl_jax.runtime.removed_settings import LAST_COMMIT
from psl_jax.runtime.run_files import Stage
from psl_jax.runtime.settings import Kind, flatten

TEACHER, START, CORRECTIONS, _ORDER = "teacher", "init_from", "corrections", "order"
_OTHER = {
    TEACHER: "with another teacher",
    START: "from another model",
    CORRECTIONS: "with other corrections of labels",
}
_OTHER_DATA = {  # what is noted of a split, and how to say that it differs
    "clips": "it has {now} clips now, not {before}",
    "ids_sha256": "it has other clips",
    "classes_digest": "its classes have changed",
    "labels_sha256": "its labels have changed",
    "audio_sha256": "its audio has changed",
}
_AFRESH = "Give another --workdir, or --start_afresh to delete what it holds and begin again."


class OtherRunError(UserError):
    """A run folder that was made with something else than what is asked for now."""


class RunFolder:
    """A run folder and what it is bound to.

    Nothing is written or deleted before `begin`: a start that fails in a check leaves no trace.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Settings, *, afresh: bool = False):
        """afresh: what is in it does not count, and is deleted by `begin`."""
        self.path, self._name = path_of(path), settings.name
        # A deletion that was interrupted is gone on with: what it left is no run.
        self.afresh = afresh or (self.path / run_files.DELETING).exists()
        self.begun = (self.path / run_files.CONFIG).exists()
        self._bound: dict[str, Any] = self._read(run_files.DATA)
        self._wanted = files.as_json(config_lib.to_dict(settings))
        self._done = self.finished

    @property
    def finished(self) -> dict[str, Any]:
        """Finished stages with the seconds that the last call spent on each."""
        return self._read(run_files.STAGES_DONE)

    def _read(self, name: str) -> dict[str, Any]:
        """Reads a file of the folder; {} where it is not there or does not count."""
        return {} if self.afresh else files.find_json(self.path / name) or {}

    def finish(self, stage: Stage, seconds: float, *, made: Iterable[str] = ()) -> None:
        """Notes that a stage is finished, and what the files are that it `made`.

        All processes come here.
        """
        if jax.process_index() == 0:
            digests = {name: files.compute_sha256(self.path / name) for name in made}
            entry = {"seconds": round(seconds, 2)} | ({"made": digests} if digests else {})
            files.write_json(self.path / run_files.STAGES_DONE, self.finished | {stage: entry})
        parallel.wait_for_all(f"{self._name} {stage}")

    def damaged(self, stage: Stage) -> list[str]:
        """Files that a finished stage made and that are gone or others since."""
        digests = self.finished.get(stage, {}).get("made", {})
        return [
            name
            for name, digest in digests.items()
            if not (self.path / name).exists() or files.compute_sha256(self.path / name) != digest
        ]

    def check_settings(self) -> None:
        """Raises OtherRunError naming the settings in which the folder differs.

        Only where they are part of what was computed. Others may change; what they concern is done
        anew.
        """
        path, done = self.path / run_files.CONFIG, self.finished
        if done and not path.exists():
            raise OtherRunError(f"{path} is gone, and what the run was made with. {_AFRESH}")
        if not path.exists() or self.afresh:
            return
        stored = config_lib.stored_settings(files.read_json(path), self.path)
        wanted = dict(flatten(self._wanted))
        differing = config_lib.changed(stored, wanted)
        refused = differing[Kind.SCIENTIFIC]
        if Stage.TRAIN not in done:  # validation evaluates likewise, and chooses the checkpoints
            refused += [n for n in differing[Kind.EVALUATION] if n.startswith("evaluate.")]
        if refused:
            lines = (f"  {n}: {stored.get(n)!r} there, {wanted.get(n)!r} now\n" for n in refused)
            raise OtherRunError(
                f"{self.path} was made with other settings:\n{''.join(lines)}{_AFRESH}"
            )
        if differing[Kind.EVALUATION]:
            evaluated = (Stage.EVALUATE, Stage.REPORT)
            self._done = {stage: done[stage] for stage in done if stage not in evaluated}

    def bind_data(self, split: str, index: ClipIndex) -> None:
        """Notes the content of a split; raises OtherRunError where the run has another one."""
        now: dict[str, Any] = {
            "clips": len(index),
            "ids_sha256": index.ids_sha256,
            "classes_digest": files.json_digest(list(index.classes)),
            "labels_sha256": index.labels_sha256,
        }
        if index.audio_digests is not None:
            now["audio_sha256"] = index.audio_sha256
        before = self._bound.get(split, now)
        differing = [name for name, value in before.items() if value != now.get(name, value)]
        if differing:
            changes = (_OTHER_DATA[n].format(before=before[n], now=now[n]) for n in differing)
            raise OtherRunError(
                f"{self.path} was made with other data than those of split {split!r} now: "
                f"{'; '.join(changes)}. {_AFRESH}"
            )
        self._bound[split] = before | now

    def bind(self, what: str, digest: str, where: object) -> None:
        """Notes the digest of the TEACHER, START or CORRECTIONS that lie at `where`; "" for none.

        Raises OtherRunError where the run was begun with another one.
        """
        # A run that was begun and tells of no start and no corrections had none.
        had_none = what != TEACHER and self.begun and not self.afresh
        before = self._bound.get(what, "" if had_none else digest)
        if before != digest:
            raise OtherRunError(
                f"{self.path} was made {_OTHER[what]}: digest {before or None}, and "
                f"{where or f'no config.{what}'} has {digest or None} now. Was it changed since? "
                f"{_AFRESH}"
            )
        if digest or what != CORRECTIONS:
            self._bound[what] = digest

    def bind_order(self, order: str) -> None:
        """Notes the order of segments; raises OtherRunError where the run has another one.

        order: a `TrainingOrder.description`.
        """
        if Stage.TRAIN in self.finished:
            return
        if not self.afresh and any((self.path / run_files.CHECKPOINTS).glob("*")):
            before = self._bound.get(_ORDER)
            if before != order:
                remedy = (
                    f"of an earlier version: continue it with commit {LAST_COMMIT}"
                    if before is None
                    else f"{before!r}: put its data back where they were, in a bucket or on a "
                    "disk, and set config.data.streamed as it was"
                )
                raise OtherRunError(
                    f"{self.path} takes segments in the order {order!r} now, and was begun in that "
                    f"{remedy}. Or: {_AFRESH}"
                )
        self._bound[_ORDER] = order

    @property
    def teacher_digest(self) -> str | None:
        """Of the teacher whose labels the run has; None: not known yet."""
        return self._bound.get(TEACHER)

    def begin(self) -> None:
        """Writes config.json and data.json; all processes come here."""
        parallel.wait_for_all(f"{self._name} settings read")
        if self.afresh and jax.process_index() == 0:
            self._clear()
        self.afresh = False
        if jax.process_index() == 0:
            for name, value in ((run_files.CONFIG, self._wanted), (run_files.DATA, self._bound)):
                if files.find_json(self.path / name) != value:
                    files.write_json(self.path / name, value)
            if self._done != self.finished:
                files.write_json(self.path / run_files.STAGES_DONE, self._done)
        parallel.wait_for_all(f"{self._name} settings kept")

    def _clear(self) -> None:
        """Deletes what a run makes; other files of the folder stay."""
        print(f"{self.path} is deleted and begun again (--start_afresh)", flush=True)
        (self.path / run_files.DELETING).write_bytes(b"")
        for path in (self.path / name for name in run_files.RUN_FILES):
            if path.is_dir():
                remove_tree(path)
            else:
                path.unlink(missing_ok=True)
        (self.path / run_files.DELETING).unlink()
