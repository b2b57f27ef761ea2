"""Which clips an experiment uses, and where they lie."""

import dataclasses

from psl_jax.runtime.settings import evaluation, operational, setting


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """config.data"""

    # soundscapes | own_data (a folder) | tfds (prepared) | packed (.npz, without TensorFlow)
    corpus: str = setting("tfds", choices=("soundscapes", "own_data", "tfds", "packed"))
    data_dir: str = operational("")  # default <workdir>/data
    source_dir: str = operational("")  # own_data: the folder with the CSVs and the audio
    max_clip_seconds: float = setting(10.0, above=0)  # own_data: longer files are cut, and reported
    label_separator: str = ";"
    num_workers: int = operational(0, least=0)  # 0: one a core
    # How records are read: directly, or by tf.data; auto: by tf.data from gs:// and the like
    reader: str = operational("auto", choices=("auto", "direct", "tf_data"))
    reader_threads: int = operational(0, least=0)  # 0: 2 for local files, 16 for others
    full_clips: int = setting(1200, least=1)  # soundscapes: how many of each split
    balanced_clips: int = setting(300, least=1)
    eval_clips: int = setting(300, least=1)
    seed: int = setting(0, least=0)
    missing_labels: float = setting(0.3, least=0, below=1)
    train_split: str = "balanced"
    validation_split: str = "balanced"  # paper, section 3.2
    eval_split: str = evaluation("eval")
