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
        help="Where the clips come from: soundscapes (synthesized), tfds (prepared, in data_dir), "
        "own_data (tables and recordings in source_dir), or a corpus as published, in source_dir",
    )
    data_dir: str = operational(
        "", help="Folder of prepared data sets; empty: data in the run folder"
    )
    data_set: str = operational(
        "", help="tfds: name of the data set in data_dir; needed where data_dir holds several"
    )
    source_dir: str = operational("", help="Folder of the recordings and their tables")
    sample_rate: int = setting(
        SAMPLE_RATE,
        choices=RATES,
        help="Rate in Hz of the clips that are prepared: 16000, or 32000 for networks that hear it "
        "(mn). A network of another rate resamples them on the fly",
    )
    clip_seconds: float = setting(
        10.0, above=0, help="own_data: length in seconds of the clips that recordings are cut into"
    )
    annotated: str = setting(
        "events_only",
        choices=("events_only", "throughout"),
        help="own_data: throughout: all events of each recording are annotated, and a clip without "
        "any is background; events_only: a clip without events may hold some, and is left out",
    )
    group_by: str = setting(
        "",
        help="own_data: recordings with the same value go to the same split, where psl_jax makes "
        "the splits: recording, folder, the name of a column, or a pattern such as 'site(\\d+)_' "
        "for the names of recordings; empty: the folder, or the recording where folders are "
        "classes",
    )
    columns: str = setting(
        "",
        help="own_data: names of the tables' columns, ours=theirs, such as "
        "'filename=Datei,onset=Beginn,label=Klasse'",
    )
    event_label: str = setting(
        "", help="own_data: label of all events of tables that have no column of labels"
    )
    unlabelled: bool = setting(
        False,
        help="own_data: whether recordings that no table names are kept, as the split unlabelled: "
        "a teacher labels them. Without any table, these are all; classes are the teacher's",
    )
    label_separator: str = setting(
        ";", help="own_data: what separates the labels of a clip in the tables"
    )
    num_workers: int = operational(
        0,
        least=0,
        most=1024,
        help="Clips that are decoded at a time while data are prepared; 0: one per core",
    )
    streamed: bool = setting(
        False,
        help="Whether training with train.sampling=uniform reads whole shards one after the other "
        "by tf.data, as it always does from gs://, and never from s3://. For disks that seek "
        "slowly; the order differs",
    )
    full_clips: int = setting(1200, least=1, help="soundscapes: number of clips of the split full")
    balanced_clips: int = setting(
        300, least=1, help="soundscapes: number of clips of the split balanced"
    )
    eval_clips: int = setting(300, least=1, help="soundscapes: number of clips of the split eval")
    seed: int = setting(0, least=0, help="soundscapes: seed of the synthesis")
    sounds: str = setting(
        "all",
        choices=("all", "first", "second"),
        help="soundscapes: which of the ten kinds of sounds occur: all, or the first or the "
        "second five",
    )
    missing_labels: float = setting(
        0.3,
        least=0,
        below=1,
        help="soundscapes: probability that a weak label is dropped, to imitate AudioSet",
    )
    train_split: str = setting("balanced", help="Split that the network is trained on")
    validation_split: str = setting(
        "balanced",
        help="Split whose mAP selects the best checkpoints and ends the training early; the "
        "paper's is the balanced set (section 3.2)",
    )
    eval_split: str = evaluation("eval", help="Split that the finished model is evaluated on")
