"""Which clips an experiment uses, and where they lie."""

import dataclasses

from psl_jax.audio.segments import RATES, SAMPLE_RATE
from psl_jax.runtime.settings import evaluation, operational, setting

# The corpora of recordings that an experiment prepares by itself.
RECORDED = ("own_data", "esc50", "urbansound8k", "fsd50k", "fsdkaggle2018", "fsdkaggle2019")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """config.data: which clips an experiment uses, and where they are."""

    corpus: str = setting(
        "tfds",
        choices=("soundscapes", "tfds", *RECORDED),
        help="Source of the clips: tfds: data that psl-jax prepare made in data_dir, such as "
        "AudioSet; own_data: your recordings in source_dir; soundscapes: synthesized; others: that "
        "published corpus in source_dir",
    )
    data_dir: str = operational(
        "", help="Folder of prepared data sets; empty: the folder data of the run folder"
    )
    data_set: str = operational(
        "", help="tfds: name of the data set in data_dir; needed where data_dir holds several"
    )
    source_dir: str = operational(
        "", help="Folder of recordings and label tables, for every corpus but tfds and soundscapes"
    )
    sample_rate: int = setting(
        SAMPLE_RATE,
        choices=RATES,
        help="Rate of the clips in Hz: 16000, or 32000 for networks trained at 32 kHz, such as "
        "mn04; a network of the other rate resamples them",
    )
    clip_seconds: float = setting(
        10.0, above=0, help="own_data: length in seconds of the clips that recordings are cut into"
    )
    annotated: str = setting(
        "events_only",
        choices=("events_only", "throughout"),
        help="own_data: what a clip without events means, where tables have times. throughout: "
        "background, because every event was annotated; events_only: unknown, so it is left out",
    )
    group_by: str = setting(
        "",
        help="own_data: what keeps recordings together in one split: recording, folder, a "
        "column's name, or a pattern for file names such as 'site(\\d+)_'; empty: folder, or "
        "recording where folders are classes or fewer than the splits",
    )
    num_folds: int = operational(  # the splits are compared by their clips
        0,
        least=0,
        help="own_data: number of splits fold1, fold2, ... that recordings are put into; 0: the "
        "splits are full, validation and eval (psl-jax main --folds makes five folds)",
    )
    columns: str = setting(
        "",
        help="own_data: your tables' column names, as NAME=YOURS, such as "
        "'filename=Datei,onset=Beginn,label=Klasse'; NAME is filename, onset, offset, duration "
        "or label",
    )
    event_label: str = setting(
        "", help="own_data: class of all events in tables without a label column"
    )
    unlabelled: bool = setting(
        False,
        help="own_data: keep recordings that no table names, as the split unlabelled, for a "
        "teacher to label. Without any table all recordings are in it, and the classes are the "
        "teacher's",
    )
    label_separator: str = setting(
        ";", help="own_data: character between several labels in one cell"
    )
    num_workers: int = operational(
        0,
        least=0,
        most=1024,
        help="Clips that are decoded at a time while data are prepared; 0: one per core",
    )
    streamed: bool = setting(
        False,
        help="Read shards whole in training, for disks that seek slowly; needs "
        "train.sampling=uniform, and changes the order of segments; always on for gs://, never for "
        "s3://",
    )
    full_clips: int = setting(1200, least=1, help="soundscapes: number of clips of the split full")
    balanced_clips: int = setting(
        300, least=1, help="soundscapes: number of clips of the split balanced"
    )
    eval_clips: int = setting(300, least=1, help="soundscapes: number of clips of the split eval")
    seed: int = setting(0, least=0, help="soundscapes: seed of the synthesis")
    missing_labels: float = setting(
        0.3,
        least=0,
        below=1,
        help="soundscapes: probability that a weak label is dropped, to imitate AudioSet",
    )
    train_split: str = setting("balanced", help="Split that the network is trained on")
    validation_split: str = setting(
        "balanced",
        help="Split whose mAP selects the best checkpoints and triggers the early stop; the "
        "default is also what students train on, as in the paper",
    )
    eval_split: str = evaluation("eval", help="Split that the finished model is evaluated on")
