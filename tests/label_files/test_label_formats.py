"""Label files there and back, and files written here by hand as others write them."""

import csv
import io
import json
import pickle

import label_data
import numpy as np
import pytest
import soundfile
from label_data import CLASSES, IDS, SEGMENTATION, all_rows, bring_in, run, write_table
from scipy.special import expit

from psl_jax.audio.segments import Segmentation
from psl_jax.data.source import Source
from psl_jax.networks.class_lists import audioset_classes
from psl_jax.runtime.errors import UserError

h5py = pytest.importorskip("h5py", reason="needs the extra corpora")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra corpora")

COLUMNS = [audioset_classes().index(name) for name in CLASSES]


def check(folder, expected, tolerance, segmentation=SEGMENTATION):
    """Labels of each segment are those that `expected(clip, segment)` gives; then come zeros."""
    found = label_data.read(folder, label_data.index(), segmentation)
    for clip, count in enumerate(segmentation.count_segments(label_data.index().num_samples)):
        for segment in range(count):
            wanted = expected(clip, segment)
            np.testing.assert_allclose(found[clip, segment], wanted, rtol=0, atol=tolerance)
        assert not found[clip, count:].any()


def test_a_table_is_plain_to_others_and_the_same_when_it_comes_back(tmp_path, data):
    index, segmentation = label_data.index(), Segmentation(0.7, 0.5, 0.0)
    label_data.write_labels(tmp_path / "labels", index, segmentation)
    expected = label_data.read(tmp_path / "labels", index, segmentation)
    file = tmp_path / "file.parquet"
    run("export", tmp_path / "labels", data, "--split=train", f"--out={file}")
    table = parquet.read_table(file).to_pydict()
    assert list(table) == ["clip", "segment", "onset", "offset", *CLASSES]
    row = table["clip"].index(IDS[3]) + 2
    assert [table[name][row] for name in list(table)[1:4]] == [2, 1.0, 1.7]
    assert [table[name][row] for name in CLASSES] == expected[3, 2].astype(float).tolist()
    cut = ("--hop_seconds=0.5", "--shortest_segment_seconds=0")
    bring_in(file, data, tmp_path / "back", *cut, seconds=segmentation.seconds)
    found = label_data.read(tmp_path / "back", index, segmentation)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(UserError, match="expected a name that ends in"):
        run("export", tmp_path / "labels", data, "--split=train", f"--out={tmp_path / 'file'}")


@pytest.mark.parametrize("audio", ["embedded", "reference"])
def test_a_folder_for_datasets(tmp_path, data, audio):
    """Rows, sounds and features; whole shards are kept, a lost one is made again."""
    index, segmentation = label_data.index(), Segmentation(1.0, 0.5)
    labels = label_data.write_labels(tmp_path / "labels", index, segmentation)
    folder = tmp_path / "folder"
    options = ("--split=train", "--format=hf", f"--audio={audio}", f"--out={folder}")
    run("export", tmp_path / "labels", data, *options)
    paths = sorted(folder.rglob("*.parquet"))
    rows = [row for path in paths for row in parquet.read_table(path).to_pylist()]
    stored = labels.gather(np.arange(len(index)))
    counts = segmentation.count_segments(index.num_samples)
    assert len(rows) == counts.sum()
    source = Source.open(data, "train")
    for row in rows:
        clip = IDS.index(row["clip"])
        np.testing.assert_array_equal(row["soft_labels"], stored[clip, row["segment"]])
        np.testing.assert_array_equal(row["weak_labels"], np.flatnonzero(index.weak_labels()[clip]))
        (samples,) = source.read_whole(np.array([clip]))
        if audio == "embedded":
            start = row["segment"] * 8000
            samples, file = samples[start : start + 16_000], io.BytesIO(row["audio"]["bytes"])
        else:
            folder_of_shard = paths[index.shard_of(clip) // 2].parent  # the second shard is empty
            file = folder_of_shard / row["file_name"]
        np.testing.assert_array_equal(soundfile.read(file, dtype="int16")[0], samples)
    schema = parquet.read_schema(paths[0]).metadata[b"huggingface"]
    features = json.loads(schema)["info"]["features"]
    assert features["weak_labels"]["feature"]["names"] == list(CLASSES)

    lost = paths[0].read_bytes()
    paths[0].unlink()
    kept = paths[1].stat().st_mtime_ns
    run("export", tmp_path / "labels", data, *options)
    assert paths[0].read_bytes() == lost and paths[1].stat().st_mtime_ns == kept
    given = ("--hop_seconds=0.5", "--format=hf")
    bring_in(folder, data, tmp_path / "back", *given)
    np.testing.assert_array_equal(label_data.read(tmp_path / "back", index, segmentation), stored)
    table = parquet.read_table(paths[1])
    described = table.schema.metadata[b"huggingface"].replace(CLASSES[0].encode(), b"another")
    table = table.replace_schema_metadata(table.schema.metadata | {b"huggingface": described})
    parquet.write_table(table, paths[1])
    with pytest.raises(UserError, match="has other classes than"):
        bring_in(folder, data, tmp_path / "mixed", *given)
    with pytest.raises(UserError, match="holds other labels"):
        run("export", tmp_path / "labels", data, *options)
    (folder / "croissant.json").unlink()
    with pytest.raises(UserError, match=r"README\.md is of something else"):
        run("export", tmp_path / "labels", data, *options)
    (folder / "README.md").unlink()
    other = {"embedded": "reference", "reference": "embedded"}[audio]
    with pytest.raises(UserError, match="holds other labels"):
        run("export", tmp_path / "labels", data, *options[:2], f"--audio={other}", options[3])


def test_datasets_and_croissant_read_the_folder(tmp_path, data):
    datasets = pytest.importorskip("datasets")
    croissant = pytest.importorskip("mlcroissant")
    label_data.write_labels(tmp_path / "labels", label_data.index(), SEGMENTATION)
    for audio in ("embedded", "reference"):
        options = ("--split=train", "--format=hf", f"--audio={audio}", f"--out={tmp_path / audio}")
        run("export", tmp_path / "labels", data, *options)
        croissant.Dataset(tmp_path / audio / "croissant.json")
    rows = datasets.load_dataset(
        str(tmp_path / "embedded"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows.features["weak_labels"].feature.names == list(CLASSES)
    assert len(rows.cast_column("audio", datasets.Audio(decode=False))[0]["soft_labels"]) == 3


def test_efficientat(tmp_path, data):
    """One .npy of logits [clips, 527], and a pickle of the rows of names; more clips than ours."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-3, 3, (9, 527)).astype(np.float32)
    rows = [3, 8, 0, 5, 1, 7, 2]
    np.save(tmp_path / "ensemble.npy", logits)
    names = dict(zip(IDS, rows, strict=True)) | {"another_cli": 4, "andanother_": 6}
    (tmp_path / "names.pkl").write_bytes(pickle.dumps(names))
    index_file = f"--index={tmp_path / 'names.pkl'}"
    bring_in(tmp_path / "ensemble.npy", data, tmp_path / "labels", index_file)
    expected = expit(logits[:, COLUMNS].astype(np.float64)).astype(np.float16)
    # A clip's row holds in each of its segments.
    check(tmp_path / "labels", lambda clip, _: expected[rows[clip]], 0)


def test_ced(tmp_path, data):
    """The highest 20 of 527 for two views of every chunk of a second, with file names and times."""
    rng = np.random.default_rng(1)
    index = label_data.index()
    counts = SEGMENTATION.count_segments(index.num_samples)
    rows = [(clip, s) for _ in range(2) for clip in range(len(index)) for s in range(counts[clip])]
    rng.shuffle(rows)
    dense = rng.random((len(rows), 527)).astype(np.float16)
    order = np.argsort(-dense, axis=1, kind="stable")[:, :20]
    with h5py.File(tmp_path / "logits.h5", "w") as file:
        file["topk_values"] = np.take_along_axis(dense, order, 1)
        file["topk_indexes"] = order.astype(np.int16)
        file["seeds"] = np.arange(len(rows), dtype=np.int32)
    with open(tmp_path / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "start", "end"])
        for clip, segment in rows:
            end = min(segment + 1, index.num_samples[clip] / 16_000)
            writer.writerow([f"Y{IDS[clip]}.wav", segment, end])
    options = ("--format=ced", f"--index={tmp_path / 'table.csv'}")
    bring_in(tmp_path / "logits.h5", data, tmp_path / "labels", *options)

    def expected(clip, segment):
        views = []
        for row in (i for i, key in enumerate(rows) if tuple(key) == (clip, segment)):
            kept = {int(k): float(dense[row, k]) for k in order[row]}
            views.append([kept.get(k, min(kept.values()) / 507) for k in COLUMNS])
        assert len(views) == 2
        return np.mean(views, axis=0)

    check(tmp_path / "labels", expected, 5e-4)


@pytest.mark.parametrize(("seconds", "joined"), [(2.0, True), (4.0, False)])
def test_sat(tmp_path, data, capsys, seconds, joined):
    """Ten of 527 classes a segment; a clip missing, one more than ours, rows in another order."""
    pa = pytest.importorskip("pyarrow")
    rng = np.random.default_rng(3)
    index, segmentation = label_data.index(), Segmentation(seconds, shortest_seconds=0.1)
    counts = segmentation.count_segments(index.num_samples)
    clips = [*enumerate(IDS[:-1]), (-1, "another_cli")]
    rows = [(clip, name, s) for clip, name in clips for s in range(counts[clip])]
    rng.shuffle(rows)
    idxs = [
        [COLUMNS[row % 3], *rng.choice(np.setdiff1d(np.arange(527), COLUMNS), 9, replace=False)]
        for row in range(len(rows))
    ]
    prob = rng.random((len(rows), 10)).round(4).tolist()
    if joined:
        stored = [[";".join(map(str, row)) for row in lists] for lists in (idxs, prob)]
    else:
        stored = [idxs, prob]
    table = {
        "filename": [f"{name}_30.000.wav" if len(name) == 11 else name for _, name, _ in rows],
        "start": [float(s) * seconds for *_, s in rows],
        "end": [(float(s) + 1) * seconds for *_, s in rows],
        "idxs": pa.array(stored[0]),
        "prob": pa.array(stored[1]),
        "hdf5path": ["audio.h5"] * len(rows),
    }
    file = tmp_path / "balanced.parquet"
    parquet.write_table(pa.table(table), file)
    given = ("--format=sat", "--shortest_segment_seconds=0.1")
    with pytest.raises(UserError, match=f"no labels for {counts[-1]} segments of 1 of the 7 clip"):
        bring_in(file, data, tmp_path / "labels", *given, seconds=seconds)
    bring_in(file, data, tmp_path / "labels", *given, "--missing=weak", seconds=seconds)
    assert f"{counts[-1]} rows are of clips that the split lacks" in capsys.readouterr().out
    found = label_data.read(tmp_path / "labels", index, segmentation)
    expected = np.zeros_like(found)
    for row, (clip, _, segment) in enumerate(rows):
        if int(clip) >= 0:
            expected[int(clip), int(segment), row % 3] = prob[row][0]
    expected[-1, : counts[-1]] = index.weak_labels(np.array([6]))[0]
    np.testing.assert_array_equal(found, expected)


def test_pretrainedsed(tmp_path, data):
    """Logits of 250 frames of 40 ms for some classes that a list names."""
    rng = np.random.default_rng(2)
    theirs = ["Cat", *CLASSES[::-1], "Rain"]
    (tmp_path / "strong.csv").write_text("label\n" + "".join(f'"{name}"\n' for name in theirs))
    index = label_data.index()
    logits = rng.normal(-2, 2, (len(index), 5, 250)).astype(np.float16)
    order = rng.permutation(len(index))
    with h5py.File(tmp_path / "as_strong.hdf5", "w") as file:
        file["filenames"] = [f"{IDS[clip]}.mp3".encode() for clip in order]
        file["strong_logits"] = logits[order]
    listed = f"--classes={tmp_path / 'strong.csv'}"
    bring_in(tmp_path / "as_strong.hdf5", data, tmp_path / "labels", listed, seconds=0.5)

    def expected(clip, segment):
        end = min(500 * (segment + 1), index.num_samples[clip] / 16)  # what follows is padding
        inside = [f for f in range(250) if 500 * segment <= f * 40 + 20 < end]
        frames = expit(logits[clip][:, inside].astype(np.float64))
        return frames.mean(axis=1)[[3, 2, 1]]

    check(tmp_path / "labels", expected, 3e-4, Segmentation(0.5))


def test_a_table_of_another_tool_with_times_and_mids(tmp_path, data):
    """No segment numbers, two classes by their MIDs, rows of 2 s over segments of 1 s."""
    with open(tmp_path / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["offset", "/m/09x0r", "clip", "onset", "Dog", "/m/0912c9", "Cat"])
        for number, name in enumerate(IDS):
            for onset in (0, 2):
                row = [onset + 2, 0.01 * number, f"{name}.wav", onset, 0.5, onset / 4, 1]
                writer.writerow(row)
    bring_in(tmp_path / "table.csv", data, tmp_path / "labels")
    check(tmp_path / "labels", lambda clip, s: [0.01 * clip, s // 2 / 2, 0.5], 1e-3)


def test_columns_that_are_no_classes_are_left_alone(tmp_path, data):
    """Texts, and numbers that are no probabilities, in CSV and in Parquet."""
    pa = pytest.importorskip("pyarrow")
    rows = [["fold a", 117.5, *row] for row in all_rows()]
    header = ("fold", "duration", "clip", "segment", *CLASSES)
    write_table(tmp_path / "t.csv", rows, header)
    columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        bring_in(tmp_path / name, data, tmp_path / f"of_{name}")
        found = label_data.read(tmp_path / f"of_{name}", label_data.index(), SEGMENTATION)
        np.testing.assert_allclose(found[0, 0], [0.1, 0.2, 0.3], atol=1e-3)


def test_two_rows_of_a_segment_are_told(tmp_path, data, capsys):
    rows = [*all_rows(), [IDS[0], 0, 0.5, 0.4, 0.3]]
    bring_in(write_table(tmp_path / "t.csv", rows), data, tmp_path / "labels")
    assert "  1 segments have the mean of several rows" in capsys.readouterr().out
    found = label_data.read(tmp_path / "labels", label_data.index(), SEGMENTATION)
    np.testing.assert_allclose(found[0, 0], [0.3, 0.3, 0.3], atol=1e-3)


def test_rows_past_the_end_are_told(tmp_path, data, capsys):
    rows = [[name, onset, onset + 1, 0.1, 0.2, 0.3] for name in IDS for onset in range(10)]
    table = write_table(tmp_path / "t.csv", rows, ("clip", "onset", "offset", *CLASSES))
    bring_in(table, data, tmp_path / "labels")
    assert "58 rows hold for no segment" in capsys.readouterr().out
