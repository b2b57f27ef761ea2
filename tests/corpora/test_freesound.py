"""FSD50K, FSDKaggle2018 and FSDKaggle2019 from their official tables and folders."""

import os
import pathlib
import shutil

import audio_files
import prepared_data
import pytest
from prepared_data import problems_of, read_split, report_of

from psl_jax.corpora.published_corpora import Fsd50k, FsdKaggle2018, FsdKaggle2019
from psl_jax.data import split_index_files
from psl_jax.runtime.errors import UserError


def write_wavs(folder: pathlib.Path, stems) -> None:
    """Short tones at 44.1 kHz, one file linked to all names: only names matter here."""
    folder.mkdir(parents=True)
    first = audio_files.write(folder / "tone", audio_files.tone(0.2, 44_100), 44_100, format="WAV")
    for stem in stems:
        os.link(first, folder / f"{stem}.wav")
    first.unlink()


def build(corpus, source, root, **settings) -> str:
    return prepared_data.build(corpus(source_dir=source, **settings), root)


# ---- FSDKaggle2018 -----------------------------------------------------------------------------


def write_kaggle2018(root: pathlib.Path) -> pathlib.Path:
    meta = root / "FSDKaggle2018.meta"
    meta.mkdir(parents=True)
    (meta / "train_post_competition.csv").write_text(
        "fname,label\n00044347.wav,Hi-hat\n001ca53d.wav,Saxophone\n002d256b.wav,Hi-hat\n"
    )
    (meta / "test_post_competition_scoring_clips.csv").write_text(
        "fname,label,usage,freesound_id,license\n"
        "00326aa9.wav,Saxophone,Private,355125,Attribution\n"
        "0038a046.wav,Hi-hat,Public,90621,Attribution\n"
    )
    write_wavs(root / "FSDKaggle2018.audio_train", ["00044347", "001ca53d", "002d256b"])
    write_wavs(root / "FSDKaggle2018.audio_test", ["00326aa9", "0038a046"])
    return root


def test_fsdkaggle2018(tmp_path):
    source = write_kaggle2018(tmp_path / "source")
    data_dir = build(FsdKaggle2018, source, tmp_path)
    assert split_index_files.class_names(data_dir) == ("Hi-hat", "Saxophone")
    labels = {
        split: {clip: record["labels"].tolist() for clip, record in found.items()}
        for split in split_index_files.splits(data_dir)
        for found in [read_split(data_dir, split)]
    }
    assert labels == {
        "train": {"00044347": [0], "001ca53d": [1], "002d256b": [0]},
        "test": {"00326aa9": [1], "0038a046": [0]},
    }
    assert report_of(data_dir)["problems"] == []


# ---- FSD50K ------------------------------------------------------------------------------------

VOCABULARY = "0,Accordion,/m/0mkg\n1,Bark,/m/05tny_\n2,Dog,/m/0bt9lr\n"


def write_fsd50k(root: pathlib.Path) -> pathlib.Path:
    truth = root / "FSD50K.ground_truth"
    truth.mkdir(parents=True)
    (truth / "vocabulary.csv").write_text(VOCABULARY)
    (truth / "dev.csv").write_text(
        "fname,labels,mids,split\n"
        '64760,"Bark,Dog","/m/05tny_,/m/0bt9lr",train\n'
        "16399,Accordion,/m/0mkg,train\n"
        '16401,"Dog,Wolf","/m/0bt9lr,/m/x",val\n'
        "16402,Wolf,/m/x,val\n"
    )
    (truth / "eval.csv").write_text('fname,labels,mids\n37199,"Dog","/m/0bt9lr"\n')
    write_wavs(root / "FSD50K.dev_audio", ["64760", "16399", "16401", "16402"])
    write_wavs(root / "FSD50K.eval_audio", ["37199"])
    return root


def test_fsd50k(tmp_path):
    data_dir = build(Fsd50k, write_fsd50k(tmp_path / "FSD50K"), tmp_path)
    assert split_index_files.class_names(data_dir) == ("Accordion", "Bark", "Dog")
    assert (pathlib.Path(data_dir) / "classes.csv").read_text().endswith("2,/m/0bt9lr,Dog\n")
    splits = {split: read_split(data_dir, split) for split in split_index_files.splits(data_dir)}
    assert {split: set(found) for split, found in splits.items()} == {
        "train": {"64760", "16399"},
        "val": {"16401"},
        "eval": {"37199"},
    }
    assert splits["train"]["64760"]["labels"].tolist() == [1, 2]
    assert splits["val"]["16401"]["labels"].tolist() == [2]
    assert len(splits["eval"]["37199"]["audio"]) == 3200
    assert problems_of(data_dir, "16401.wav") == [
        ("unknown label", "dev.csv line 4: 'Wolf' not in the classes")
    ]
    assert [kind for kind, _ in problems_of(data_dir, "16402.wav")] == ["no label", "unknown label"]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("dev_audio", "", r"no folder FSD50K.dev_audio or dev_audio in .*'train'"),
        ("ground_truth/eval.csv", "", r"eval\.csv is neither in .* nor in a folder in it"),
        ("ground_truth/vocabulary.csv", "", r"vocabulary\.csv is neither in .*FSD50K"),
        ("ground_truth/vocabulary.csv", "index,label,mid\n0,a,b\n", r"y\.csv: expected lines such"),
        ("ground_truth/dev.csv", "fname,labels\n1,Dog\n", r"dev\.csv: no column split"),
    ],
)
def test_fsd50k_folders_and_tables_that_are_missing_or_otherwise(tmp_path, name, content, match):
    source = write_fsd50k(tmp_path / "FSD50K")
    path = source / f"FSD50K.{name}"
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=match):
        build(Fsd50k, source, tmp_path)


# ---- FSDKaggle2019 -----------------------------------------------------------------------------


def write_kaggle2019(root: pathlib.Path) -> pathlib.Path:
    meta = root / "FSDKaggle2019.meta"
    meta.mkdir(parents=True)
    header = "fname,labels,freesound_id,license\n"
    (meta / "train_curated_post_competition.csv").write_text(
        header + "0006ae4e.wav,Bark,1,x\n"
        '0019ef41.wav,"Bark,Meow",2,x\n'
        "f76181c4.wav,Bark,3,x\n"
        "1d44b0bd.wav,Meow,4,x\n"
    )
    (meta / "train_noisy_post_competition.csv").write_text(
        "fname,labels,flickr_video_URL,license\n00097e21.wav,Raindrop,u,x\n"
    )
    (meta / "test_post_competition.csv").write_text(
        "fname,labels,usage,freesound_id,license\n4260ebea.wav,Meow,Public,5,x\n"
    )
    curated = ["0006ae4e", "0019ef41", "f76181c4", "1d44b0bd"]
    write_wavs(root / "FSDKaggle2019.audio_train_curated", curated)
    write_wavs(root / "FSDKaggle2019.audio_train_noisy", ["00097e21"])
    write_wavs(root / "FSDKaggle2019.audio_test", ["4260ebea"])
    return root


def test_fsdkaggle2019(tmp_path):
    source = write_kaggle2019(tmp_path / "source")
    data_dir = build(FsdKaggle2019, source, tmp_path)
    assert split_index_files.class_names(data_dir) == ("Bark", "Meow", "Raindrop")
    curated = read_split(data_dir, "train_curated")
    assert set(curated) == {"0006ae4e", "0019ef41"}
    assert curated["0019ef41"]["labels"].tolist() == [0, 1]
    assert set(read_split(data_dir, "train_noisy")) == {"00097e21"}
    assert set(read_split(data_dir, "test")) == {"4260ebea"}
    assert report_of(data_dir)["splits"]["train_curated"]["problems"] == {"known bad": 2}
    assert problems_of(data_dir, "1d44b0bd.wav") == [("known bad", "known to be silent; left out")]
