"""TFDS data sets that others made: read where they fit, refused by what does not."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from psl_jax.data import split_index_files
from psl_jax.data.source import Source
from psl_jax.runtime.errors import UserError

CLIPS = [np.random.default_rng(i).integers(-999, 999, 1600 + 100 * i) for i in range(5)]


def write(folder, audio, convert=lambda samples: samples.astype(np.int16)):
    features = tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "audio": audio,
            "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=["cat", "dog"])),
        }
    )
    examples = [
        (i, {"id": str(i), "audio": convert(samples), "labels": [i % 2]})
        for i, samples in enumerate(CLIPS)
    ]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="foreign",
        version="1.0.0",
        features=features,
        split_datasets={"train": examples},
        data_dir=folder,
    )
    return split_index_files.find_data_dir(folder)


def test_what_fits_is_read(tmp_path):
    data_dir = write(
        tmp_path, tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes")
    )
    source = Source.open(data_dir, "train")
    index = source.index
    assert index.classes == ("cat", "dog")
    for clip, audio in zip(index.ids, source.read_whole(np.arange(len(index))), strict=True):
        np.testing.assert_array_equal(audio, CLIPS[int(clip)])
    assert Source.open(data_dir, "train").index.audio_starts is not None  # kept in the saved index


@pytest.mark.parametrize(
    ("audio", "convert", "match"),
    [
        (
            tfds.features.Tensor(shape=(None,), dtype=np.float32, encoding="bytes"),
            lambda samples: (samples / 32768).astype(np.float32),
            "audio is float32",
        ),
        (
            tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="zlib"),
            lambda samples: samples.astype(np.int16),
            "audio is encoded as 'zlib'",
        ),
        (
            tfds.features.Tensor(shape=(None,), dtype=np.int16),
            lambda samples: samples.astype(np.int16),
            "audio is encoded as 'none'",
        ),
        (
            tfds.features.Audio(sample_rate=44_100),
            lambda samples: samples.astype(np.int64),
            "audio is at 44100 Hz",
        ),
        (
            tfds.features.Audio(sample_rate=16_000),
            lambda samples: samples.astype(np.int64),
            "audio is int64",
        ),
        (
            tfds.features.Tensor(shape=(None, 2), dtype=np.int16, encoding="bytes"),
            lambda samples: np.stack([samples, samples], axis=1).astype(np.int16),
            "audio has the shape",
        ),
    ],
    ids=["float", "zlib", "list", "rate", "int64", "stereo"],
)
def test_what_does_not_fit_is_refused(tmp_path, audio, convert, match):
    data_dir = write(tmp_path, audio, convert)
    with pytest.raises(UserError, match=match) as caught:
        split_index_files.load_index(data_dir, "train")
    assert 'encoding="bytes"' in str(caught.value)
