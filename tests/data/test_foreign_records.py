"""TFDS data sets that others made: read where they fit, refused by what does not."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from synthetic_data import make_audio, make_index, write_prepared

from psl_jax.data import split_index_files
from psl_jax.data.source import Source
from psl_jax.runtime.errors import UserError

CLIPS = [np.random.default_rng(i).integers(-999, 999, 1600 + 100 * i) for i in range(5)]


def tensor(shape=(None,), dtype=np.int16, **more) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=shape, dtype=dtype, **more)


def features_of(audio) -> tfds.features.FeaturesDict:
    label = tfds.features.ClassLabel(names=["cat", "dog"])
    labels = tfds.features.Sequence(label)
    return tfds.features.FeaturesDict(
        {"id": tfds.features.Text(), "audio": audio, "labels": labels}
    )


def test_what_fits_is_read(tmp_path):
    examples = [
        (i, {"id": str(i), "audio": samples.astype(np.int16), "labels": [i % 2]})
        for i, samples in enumerate(CLIPS)
    ]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="foreign",
        version="1.0.0",
        features=features_of(tensor(encoding="bytes")),
        split_datasets={"train": examples},
        data_dir=tmp_path,
    )
    data_dir = split_index_files.find_data_dir(tmp_path)
    folder = pathlib.Path(data_dir)
    description = folder / "dataset_info.json"
    info = json.loads(description.read_text())
    info["splits"][0]["filepathTemplate"] = "{SPLIT}_{SHARD_INDEX}of{NUM_SHARDS}.{FILEFORMAT}"
    description.write_text(json.dumps(info))
    (shard,) = folder.glob("*.tfrecord-*")
    shard.rename(folder / "train_00000of00001.tfrecord")
    source = Source.open(data_dir, "train")
    index = source.index
    assert index.classes == ("cat", "dog")
    for clip, audio in zip(index.ids, source.read_whole(np.arange(len(index))), strict=True):
        np.testing.assert_array_equal(audio, CLIPS[int(clip)])
    assert Source.open(data_dir, "train").index.audio_starts is not None  # kept in the saved index


@pytest.mark.parametrize(
    "audio",
    [
        tensor(dtype=np.float32, encoding="bytes"),
        tensor(),
        tensor(shape=(None, 2), encoding="bytes"),
        tfds.features.Audio(sample_rate=44_100, shape=(None,), dtype=np.int16, encoding="bytes"),
        tfds.features.Audio(lazy_decode=True),
        tfds.features.Text(),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, audio):
    index = make_index([2], 100)
    write_prepared(tmp_path, index, make_audio(index))
    features_of(audio).save_config(tmp_path)
    with pytest.raises(UserError, match="data set of another form") as caught:
        split_index_files.load_index(tmp_path, "train")
    assert 'encoding="bytes"' in str(caught.value)
