"""Names of the files of a run folder that several rooms read."""

CONFIG = "config.json"
STAGES_DONE = "stages.json"
LABEL_QUALITY = "label_quality.json"
NOTES = "notes.json"  # what to know before believing the figures
