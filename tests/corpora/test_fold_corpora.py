"""ESC-50 and UrbanSound8K from tables and folders as they are published."""

import pathlib

import audio_files
import pytest
from prepared_data import build, read_split, report_of

from psl_jax.corpora.published_corpora import Esc50, UrbanSound8k
from psl_jax.data import split_index_files
from psl_jax.runtime.errors import UserError

ESC_HEADER = "filename,fold,target,category,esc10,src_file,take"
URBAN_HEADER = "slice_file_name,fsID,start,end,salience,fold,classID,class"


def tones(paths) -> None:
    for seed, path in enumerate(paths):
        audio_files.write(path, audio_files.tone(0.2, 44_100, seed=seed), 44_100)


def esc50(root: pathlib.Path, rows) -> pathlib.Path:
    table = [
        f"{name},{fold},{target},{category},False,1,A" for name, fold, target, category in rows
    ]
    (root / "meta").mkdir(parents=True)
    (root / "meta/esc50.csv").write_text("\n".join([ESC_HEADER, *table]))
    return root


ROWS = [
    ("1-1-A-40.wav", 1, 40, "helicopter"),
    ("1-2-A-0.wav", 1, 0, "dog"),
    ("3-3-A-0.wav", 3, 0, "dog"),
]


def test_esc50_as_published(tmp_path):
    source = esc50(tmp_path / "ESC-50-master", ROWS)
    tones(source / "audio" / name for name, *_ in ROWS)
    data = build(Esc50(source_dir=source), tmp_path)
    assert split_index_files.splits(data) == ["fold1", "fold3"]
    assert split_index_files.class_names(data) == ("dog", "helicopter")  # by their numbers
    one, three = (split_index_files.load_index(data, split) for split in ("fold1", "fold3"))
    labels = dict(zip(one.ids.tolist(), one.weak_labels().argmax(axis=1).tolist(), strict=True))
    assert labels == {"1-1-A-40": 1, "1-2-A-0": 0}
    assert three.ids.tolist() == ["3-3-A-0"] and three.num_samples.tolist() == [3200]


def test_urbansound8k_as_published_and_one_fold_of_it(tmp_path):
    source = tmp_path / "UrbanSound8K"
    (source / "metadata").mkdir(parents=True)
    rows = ["7-3-0-0.wav,7,0.0,4.0,1,2,3,dog_bark", "8-8-0-1.wav,8,1.0,2.0,2,10,8,siren"]
    (source / "metadata/UrbanSound8K.csv").write_text("\n".join([URBAN_HEADER, *rows]))
    tones([source / "audio/fold2/7-3-0-0.wav", source / "audio/fold10/8-8-0-1.wav"])
    data = build(UrbanSound8k(source_dir=source, splits=["fold10"]), tmp_path)
    assert split_index_files.splits(data) == ["fold10"]
    assert list(read_split(data, "fold10")) == ["8-8-0-1"]
    assert split_index_files.class_names(data) == ("dog_bark", "siren")  # of the whole table


def test_missing_files_and_repeated_rows_are_reported(tmp_path):
    source = esc50(tmp_path / "esc", [*ROWS, ("1-2-A-0.wav", 3, 0, "dog")])
    tones(source / "audio" / name for name, *_ in ROWS[1:])
    data = build(Esc50(source_dir=source), tmp_path)
    kinds = sorted((p["file"], p["kind"]) for p in report_of(data)["problems"])
    assert kinds == [("1-1-A-40.wav", "missing"), ("1-2-A-0.wav", "duplicate row")]


def test_a_table_that_is_wrong_is_told_by_its_line(tmp_path):
    (tmp_path / "esc50.csv").write_text(f"{ESC_HEADER}\na.wav,1,dog,0,,,")
    with pytest.raises(UserError, match="line 2: fold and target are '1' and 'dog', expected num"):
        Esc50(source_dir=tmp_path)


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"esc50\.csv or meta\.csv is neither in"):
        Esc50(source_dir=tmp_path)
    with pytest.raises(UserError, match="no split 'fold2', expected some of fold1, fold3"):
        Esc50(source_dir=esc50(tmp_path, ROWS), splits=["fold2"])
