"""The stages of a run, and the files of its folder that several packages read."""

import enum


class Stage(enum.StrEnum):
    """The stages of a run, in their order."""

    PREPARE = "prepare"
    RELABEL = "relabel"
    TRAIN = "train"
    AVERAGE = "average"
    EVALUATE = "evaluate"
    REPORT = "report"

    @property
    def has_results(self) -> bool:
        """Whether a run up to this stage has metrics."""
        return self in (Stage.EVALUATE, Stage.REPORT)


CONFIG = "config.json"
STAGES_DONE = "stages.json"
LABEL_QUALITY = "label_quality.json"
NOTES = "notes.json"  # what to know before believing the figures
CHECKPOINTS = "checkpoints"
DELETING = "deleting"  # there while --start_afresh deletes: what is left does not count
DATA = "data.json"  # which clips the run is of, and whose labels

# All that a run makes in its folder.
RUN_FILES = (
    *(CONFIG, DATA, NOTES, STAGES_DONE, LABEL_QUALITY, "train_log.jsonl", "tb", CHECKPOINTS),
    *(
        "averaged",
        "soft_labels",
        "features",  # of earlier versions
        "scores.npz",
        "metrics.json",
        "per_class.csv",
        "report.html",
    ),
)
