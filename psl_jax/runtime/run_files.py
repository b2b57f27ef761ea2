"""Names of the files of a run folder that several packages read."""

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
