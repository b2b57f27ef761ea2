"""Where an experiment's soft labels come from: its teacher, or a folder of labels."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from psl_jax.audio.segments import Segmentation
from psl_jax.config import Settings
from psl_jax.data import label_manifest
from psl_jax.data.label_manifest import are_begun, digest_without_teacher
from psl_jax.data.soft_labels import SoftLabels, missing_shards
from psl_jax.data.source import Source
from psl_jax.experiments import sanity_notes
from psl_jax.experiments.run_folder import TEACHER, OtherRunError, RunFolder
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import files, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of
from psl_jax.runtime.run_files import LABEL_QUALITY, Stage
from psl_jax.scoring import relabeling
from psl_jax.teachers import open_teacher
from psl_jax.teachers.teacher import Teacher


class SoftLabelStage:
    """The soft labels of one experiment: checked, made, measured, opened."""

    def __init__(
        self,
        settings: Settings,
        folder: RunFolder,
        *,
        segmentation: Segmentation,
        teacher: str | os.PathLike[str],
        open_source: Callable[[], Source],
    ):
        """teacher: its name, see `open_teacher`; open_source: of the split that is trained on."""
        self.settings, self.folder, self.segmentation = settings, folder, segmentation
        self.teacher, self._open_source = teacher, open_source
        self._foreign_teacher: Teacher | None = None  # which nobody trains meanwhile

    def check(self, *, before_it_is_trained: bool = False) -> None:
        """Raises OtherRunError where the teacher is not the one whose labels the run has.

        And UserError for a teacher that cannot label: what it knows is compared with the data.
        """
        if not self.settings.uses_soft_labels:
            return
        if digest := self.given:
            self.open(digest)
            self.folder.bind(TEACHER, digest, self.directory)
            return
        if not self.teacher:
            raise UserError(
                "soft labels need a teacher: give a finished run folder, such as "
                "--config.teacher=runs/teacher, or labels that are there already, with "
                "--config.soft_labels_dir (docs/LABELS.md)"
            )
        try:
            teacher = self._open_teacher()
            if self.settings.teaches_in_step:
                self.model_in_step()
            self.folder.bind(TEACHER, teacher.digest, self.teacher)
        except OtherRunError:
            raise
        except UserError as error:
            # Its labels are there and tell whose they are, or are needed no more; or it is still
            # to be trained.
            is_labelled = {Stage.RELABEL, Stage.TRAIN} & self.folder.finished.keys()
            is_awaited = before_it_is_trained and self.teacher != self.settings.teacher
            if is_labelled or is_awaited:
                return
            raise UserError(f"config.teacher is {os.fspath(self.teacher)!r}: {error}") from error

    def teacher_classes(self) -> tuple[str, ...]:
        """The classes of the labels, for data that have none of their own. Raises UserError."""
        is_used = self.settings.uses_soft_labels
        if is_used and self.given:
            return tuple(label_manifest.read(self.directory)["classes"])
        if not is_used or not self.teacher:
            raise UserError(
                "the data have no labels and no classes: both come from a teacher. Give a finished "
                "one, such as --config.teacher=mn04, to experiments on soft labels "
                "(--config own_data:unlabelled)"
            )
        trusts_code = self.settings.relabel.trust_remote_code
        return open_teacher.list_classes(self.teacher, trust_remote_code=trusts_code)

    @property
    def is_stored(self) -> bool:
        """Whether labels are stored; else the teacher labels in the step, or not at all."""
        return self.settings.uses_soft_labels and not self.settings.teaches_in_step

    @property
    def directory(self) -> pathlib.Path:
        """Where they are stored."""
        return path_of(self.settings.soft_labels_dir or self.folder.path / "soft_labels")

    @property
    def given(self) -> str | None:
        """The digest of labels in `soft_labels_dir` that are used as they are, without a teacher.

        Imported or cut ones; without `teacher`, any.
        """
        if not self.settings.soft_labels_dir:
            return None
        return digest_without_teacher(self.directory, even_relabeled=not self.teacher)

    @property
    def lacks_labels(self) -> bool:
        """Whether labels of the run's own are not there, or not all."""
        if self.settings.soft_labels_dir:
            return False
        return not are_begun(self.directory) or bool(missing_shards(self.directory))

    def make(self) -> None:
        """Writes the labels that are missing, and tells what they are like."""
        digest = self.given
        if not digest:
            teacher, settings = self._open_teacher(), self.settings.relabel
            relabeling.relabel(
                teacher.make_scorer(settings),
                self._open_source(),
                self.segmentation,
                self.directory,
                teacher=teacher.identity,
                batch_size=settings.batch_size,
                rule=settings,
            )
            parallel.wait_for_all("relabel")
            digest = teacher.digest
        if jax.process_index() == 0:
            write_label_quality(self.open(digest), self.folder.path)

    def open(self, teacher_digest: str | None = None) -> SoftLabels:
        """The stored labels; raises UserError where they are not those of the run."""
        return SoftLabels.open(
            self.directory,
            self._open_source().index,
            self.segmentation,
            teacher_digest=teacher_digest or self.folder.teacher_digest,
            rule=self.settings.relabel,
        )

    def model_in_step(self) -> Model:
        """The teacher inside the training step. Raises UserError for one of another kind."""
        model = self._open_teacher().model
        if model is None:
            raise UserError(
                "a teacher in the step must be a run or an export of ours that knows the data's "
                "classes by their names; give --config.relabel.when=beforehand"
            )
        return model

    def _open_teacher(self) -> Teacher:
        if self._foreign_teacher is not None:
            return self._foreign_teacher
        classes = self._open_source().index.classes
        teacher = open_teacher.open_teacher(self.teacher, classes, self.settings.relabel)
        if open_teacher.parse_name(self.teacher).kind != "run":
            self._foreign_teacher = teacher
        return teacher


def write_label_quality(labels: SoftLabels, folder: pathlib.Path) -> dict[str, Any]:
    """Measures what soft labels are like, keeps it in a folder, and prints what to know."""
    quality = relabeling.measure_label_quality(labels, labels.index, labels.segmentation)
    files.write_json(folder / LABEL_QUALITY, quality)
    for note in sanity_notes.of_labels(quality):
        print(f"note: {note}")
    return quality
