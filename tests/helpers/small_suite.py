"""A suite of two small experiments, for runs that are killed, and what such runs came to.

Without another setting they save at validations alone: a checkpoint takes longer than a step.
"""

import io
import json

import numpy as np
import synthetic_data

CONFIG = """
from psl_jax import config

def get_config():
    result = config.base()
    result.data.corpus = "tfds"
    result.segment_seconds = 1.0
    result.model.width = 0.1
    result.train.batch_size = result.evaluate.batch_size = 4
    result.train.learning_rate = 1e-2
    result.train.epochs, result.train.log_every, result.train.checkpoint_every = 2, 1, 1000
    result.experiments = {
        "teacher": {"labels": "weak"},
        "psl2s": {"labels": "soft", "teacher": "teacher"},
    }
    return result
"""


def write(folder, shard_sizes):
    """The config and the data."""
    (folder / "config.py").write_text(CONFIG)
    for seed, split in enumerate(("balanced", "eval")):
        index = synthetic_data.make_index(shard_sizes, 32_000, split=split, first=100 * seed)
        synthetic_data.write_prepared(folder, index, synthetic_data.make_audio(index, seed))


def logged(lines: bytes | str) -> list[dict]:
    """What a log tells, but for times."""
    kept = ("step", "loss", "val_mAP", "learning_rate")
    return [{k: v for k, v in json.loads(line).items() if k in kept} for line in lines.splitlines()]


def assert_same_arrays(ours: bytes, theirs: bytes) -> None:
    """Of two files of NumPy's, of one array or of several."""
    found, expected = (np.load(io.BytesIO(content)) for content in (ours, theirs))
    if isinstance(expected, np.ndarray):
        found, expected = {"": found}, {"": expected}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
