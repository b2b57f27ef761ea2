"""Which clips an experiment uses, and where they lie."""

import dataclasses

from psl_jax.runtime.settings import evaluation, operational, setting

# The corpora of recordings that an experiment prepares by itself.
RECORDED = ("own_data", "esc50", "urbansound8k", "fsd50k", "fsdkaggle2018", "fsdkaggle2019")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """config.data"""

    # soundscapes | tfds (prepared), or what lies in source_dir: own_data (a folder with CSVs), or a
    # corpus as published
    corpus: str = setting("tfds", choices=("soundscapes", "tfds", *RECORDED))
    data_dir: str = operational("")  # default <workdir>/data
    data_set: str = operational("")  # tfds: which folder in data_dir, if it holds several
    source_dir: str = operational("")  # the folder with the CSVs and the audio
    max_clip_seconds: float = setting(10.0, above=0)  # own_data: longer files are cut, and reported
    label_separator: str = ";"
    num_workers: int = operational(0, least=0)  # 0: one a core
    # Whole shards are read one after the other, by tf.data, where the order is uniform: for disks
    # that seek slowly. It is another order of training. From gs:// always.
    streamed: bool = setting(False)
    full_clips: int = setting(1200, least=1)  # soundscapes: how many of each split
    balanced_clips: int = setting(300, least=1)
    eval_clips: int = setting(300, least=1)
    seed: int = setting(0, least=0)
    # soundscapes: of all ten sounds, or of one half of them or the other
    sounds: str = setting("all", choices=("all", "first", "second"))
    missing_labels: float = setting(0.3, least=0, below=1)
    train_split: str = "balanced"
    validation_split: str = "balanced"  # paper, section 3.2
    eval_split: str = evaluation("eval")
