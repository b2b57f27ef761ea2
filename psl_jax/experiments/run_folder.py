"""What a run folder was made with: settings, data and teacher, by their contents.

Where they lie may change. What they are may not: a run that went on over other clips would end in
a table that is true of neither.
"""

import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jax

from psl_jax import config as config_lib
from psl_jax.config import Settings
from psl_jax.data.clip_index import ClipIndex
from psl_jax.runtime import files, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of, remove_tree
from psl_jax.runtime.removed_settings import LAST_COMMIT
from psl_jax.runtime.run_files import (
    CHECKPOINTS,
    CONFIG,
    DATA,
    DELETING,
    RUN_FILES,
    STAGES_DONE,
    Stage,
)
from psl_jax.runtime.settings import Kind

_TEACHER, _START, _ORDER, _CORRECTIONS = "teacher", "init_from", "order", "corrections"
_AFRESH = "Give another --workdir, or --start_afresh to delete what it holds and begin again."


class OtherRunError(UserError):
    """A run folder that was made with something else than what is asked for now."""


class RunFolder:
    """A run folder and what it is bound to.

    Nothing is written or deleted before `begin`: a start that fails in a check leaves no trace.

    Attributes:
      begun: whether something was made in it.
      afresh: what is in it does not count, and is deleted by `begin`.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Settings, *, afresh: bool = False):
        self.path, self._name = path_of(path), settings.name
        # A deletion that was interrupted is gone on with: what it left is no run.
        self.afresh = afresh or (self.path / DELETING).exists()
        self.begun = (self.path / CONFIG).exists()
        has_data = (self.path / DATA).exists() and not self.afresh
        self._bound: dict[str, Any] = files.read_json(self.path / DATA) if has_data else {}
        self._wanted = files.as_json(config_lib.to_dict(settings))
        self._done = self.finished

    @property
    def finished(self) -> dict[str, Any]:
        """Finished stages with the seconds that the last call spent on each."""
        path = self.path / STAGES_DONE
        return files.read_json(path) if path.exists() and not self.afresh else {}

    def finish(self, stage: Stage, seconds: float, *, made: Iterable[str] = ()) -> None:
        """Notes that a stage is finished, and what the files are that it `made`.

        All processes come here.
        """
        if jax.process_index() == 0:
            digests = {name: files.compute_sha256(self.path / name) for name in made}
            entry = {"seconds": round(seconds, 2)} | ({"made": digests} if digests else {})
            files.write_json(self.path / STAGES_DONE, self.finished | {stage: entry})
        parallel.wait_for_all(f"{self._name} {stage}")

    def damaged(self, stage: Stage) -> list[str]:
        """Files that a finished stage made and that are gone or others since."""
        digests = self.finished.get(stage, {}).get("made", {})
        paths = {name: self.path / name for name in digests}
        return [
            name
            for name, path in paths.items()
            if not path.exists() or files.compute_sha256(path) != digests[name]
        ]

    def check_settings(self) -> None:
        """Raises OtherRunError naming the settings in which the folder differs.

        Only where they are part of what was computed. Others may change; what they concern is done
        anew.
        """
        path, done = self.path / CONFIG, self.finished
        if not path.exists() or self.afresh:
            return
        stored = files.read_json(path)
        config_lib.check_stored(stored, self.path)
        differing = config_lib.changed(stored, self._wanted)
        refused = differing[Kind.SCIENTIFIC]
        if Stage.TRAIN not in done:  # validation evaluates likewise, and chooses the checkpoints
            refused += [n for n in differing[Kind.EVALUATION] if n.startswith("evaluate.")]
        if refused:
            raise _other_settings(self.path, refused, stored=stored, wanted=self._wanted)
        if differing[Kind.EVALUATION]:
            evaluated = (Stage.EVALUATE, Stage.REPORT)
            self._done = {stage: done[stage] for stage in done if stage not in evaluated}

    def bind_data(self, split: str, index: ClipIndex) -> None:
        """Notes the content of a split; raises OtherRunError where the run has another one."""
        now = _identity(index)
        before = self._bound.get(split, now)
        differing = [name for name, value in before.items() if value != now.get(name, value)]
        if differing:
            raise OtherRunError(
                f"{self.path} was made with other data: split {split!r} had {before['clips']} "
                f"clips (SHA-256 of their ids {before['ids_sha256'][:12]}…), and has "
                f"{now['clips']} ({now['ids_sha256'][:12]}…) now; what differs: "
                f"{', '.join(_WORDS[name] for name in differing)}. {_AFRESH}"
            )
        self._bound[split] = before | now

    def bind_teacher(self, digest: str, where: object) -> None:
        """Notes the teacher; raises OtherRunError where the run was begun with another one."""
        self._check_model(_TEACHER, digest, how="with another teacher", where=where)

    def bind_start(self, digest: str, where: object) -> None:
        """Notes the model that the run starts from, "" for none. Raises OtherRunError."""
        if self.begun and not self.afresh:
            self._bound.setdefault(_START, "")
        self._check_model(_START, digest, how="from another model", where=where)

    def bind_corrections(self, digest: str, where: str) -> None:
        """Notes the decisions of people, "" for none. Raises OtherRunError for others."""
        before = self._bound.get(_CORRECTIONS, "" if self.begun and not self.afresh else digest)
        if before != digest:
            words = {
                before: before or "none",
                digest: f"{where} has {digest}" if digest else "none",
            }
            raise OtherRunError(
                f"{self.path} was made with other corrections of labels: {words[before]} (digest "
                f"of the decisions) there, {words[digest]} now. {_AFRESH}"
            )
        if digest:
            self._bound[_CORRECTIONS] = digest

    def _check_model(self, key: str, digest: str, *, how: str, where: object) -> None:
        before = self._bound.get(key, digest)
        if before != digest:
            raise OtherRunError(
                f"{self.path} was made {how}: digest {before or None}, and {where} has "
                f"{digest or None} now. Was it trained again? {_AFRESH}"
            )
        self._bound[key] = digest

    def bind_order(self, order: str) -> None:
        """Notes the order of segments; raises OtherRunError where the run has another one.

        order: a `TrainingOrder.description`.
        """
        if Stage.TRAIN in self.finished:
            return
        if not self.afresh and any((self.path / CHECKPOINTS).glob("*")):
            before = self._bound.get(_ORDER)
            if before is None:
                raise OtherRunError(
                    f"{self.path} was begun by an earlier version, which takes segments in another "
                    f"order. Continue it with commit {LAST_COMMIT}, the last one that does so. Or: "
                    f"{_AFRESH}"
                )
            if before != order:
                raise OtherRunError(
                    f"{self.path} was begun with segments in the order {before!r}, and it is "
                    f"{order!r} now: put its data back where they were, in a bucket or on a disk, "
                    f"and set config.data.streamed as it was. Or: {_AFRESH}"
                )
        self._bound[_ORDER] = order

    @property
    def teacher_digest(self) -> str | None:
        """Of the teacher whose labels the run has; None: not known yet."""
        return self._bound.get(_TEACHER)

    def begin(self) -> None:
        """Writes config.json and data.json; all processes come here."""
        parallel.wait_for_all(f"{self._name} settings read")
        if self.afresh and jax.process_index() == 0:
            self._clear()
        self.afresh = False
        if jax.process_index() == 0:
            for name, value in ((CONFIG, self._wanted), (DATA, self._bound)):
                path = self.path / name
                if not path.exists() or files.read_json(path) != value:
                    files.write_json(path, value)
            if self._done != self.finished:
                files.write_json(self.path / STAGES_DONE, self._done)
        parallel.wait_for_all(f"{self._name} settings kept")

    def _clear(self) -> None:
        """Deletes what a run makes; other files of the folder stay."""
        print(f"{self.path} is deleted and begun again (--start_afresh)", flush=True)
        (self.path / DELETING).write_bytes(b"")
        for name in RUN_FILES:
            path = self.path / name
            if path.is_dir():
                remove_tree(path)
            else:
                path.unlink(missing_ok=True)
        (self.path / DELETING).unlink()


_WORDS = {
    "clips": "how many there are",
    "ids_sha256": "their ids",
    "classes_digest": "the classes",
    "labels_sha256": "labels or lengths",
    "audio_sha256": "the audio",
}


def _identity(index: ClipIndex) -> dict[str, Any]:
    """What a split is, wherever it lies."""
    identity = {
        "clips": len(index),
        "ids_sha256": index.ids_sha256,
        "classes_digest": files.json_digest(list(index.classes)),
        "labels_sha256": index.labels_sha256,
    }
    if index.audio_digests is not None:
        identity["audio_sha256"] = index.audio_sha256
    return identity


def _other_settings(
    folder: pathlib.Path, names: list[str], *, stored: dict[str, Any], wanted: dict[str, Any]
) -> OtherRunError:
    lines = [
        f"  {name}: {config_lib.stored_setting(stored, name)!r} there, "
        f"{config_lib.stored_setting(wanted, name)!r} now"
        for name in names[:10]
    ]
    more = f"  and {len(names) - 10} more\n" if len(names) > 10 else ""
    return OtherRunError(
        f"{folder} was made with other settings:\n" + "\n".join(lines) + f"\n{more}{_AFRESH}"
    )
