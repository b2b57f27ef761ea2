"""ESC-50, UrbanSound8K, FSD50K and FSDKaggle from tables and folders as they are published."""

import os
import pathlib
import shutil

import audio_files
import pytest
from prepared_data import build, problems_of, read_split, report_of

from psl_jax.corpora.published_corpora import (
    Esc50,
    Fsd50k,
    FsdKaggle2018,
    FsdKaggle2019,
    UrbanSound8k,
)
from psl_jax.data import split_index_files
from psl_jax.runtime.errors import UserError


def write_corpus(root: pathlib.Path, tables: dict[str, str], audio: dict[str, str]) -> pathlib.Path:
    """Tables by their paths, and one short tone at 44.1 kHz under all names in each folder."""
    for name, text in tables.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    tone = audio_files.write(root / "tone", audio_files.tone(0.2, 44_100), 44_100, format="WAV")
    for folder, names in audio.items():
        (root / folder).mkdir(parents=True)
        for name in names.split():
            os.link(tone, root / folder / f"{name}.wav")
    tone.unlink()
    return root


def labels_of(data_dir: str) -> dict[str, dict[str, list[int]]]:
    """Of each clip of each split."""
    return {
        split: {clip: record["labels"].tolist() for clip, record in records.items()}
        for split in split_index_files.splits(data_dir)
        for records in [read_split(data_dir, split)]
    }


ESC_HEADER = "filename,fold,target,category,esc10,src_file,take\n"
ESC50 = {
    "meta/esc50.csv": f"{ESC_HEADER}1-1-A-40.wav,1,40,helicopter,False,1,A\n"
    "1-2-A-0.wav,1,0,dog,False,1,A\n3-3-A-0.wav,3,0,dog,False,1,A\n"
}


def test_esc50(tmp_path):
    source = write_corpus(tmp_path / "esc", ESC50, {"audio": "1-1-A-40 1-2-A-0 3-3-A-0"})
    data_dir = build(Esc50(source_dir=source), tmp_path)
    assert split_index_files.class_names(data_dir) == ("dog", "helicopter")  # by their numbers
    assert labels_of(data_dir) == {
        "fold1": {"1-1-A-40": [1], "1-2-A-0": [0]},
        "fold3": {"3-3-A-0": [0]},
    }
    assert split_index_files.load_index(data_dir, "fold3").num_samples.tolist() == [3200]


def test_esc50_with_missing_files_and_repeated_rows(tmp_path):
    repeated = {name: f"{text}1-2-A-0.wav,3,0,dog,False,1,A\n" for name, text in ESC50.items()}
    source = write_corpus(tmp_path / "esc", repeated, {"audio": "1-2-A-0 3-3-A-0"})
    data_dir = build(Esc50(source_dir=source), tmp_path)
    kinds = sorted((p["file"], p["kind"]) for p in report_of(data_dir)["problems"])
    assert kinds == [("1-1-A-40.wav", "missing"), ("1-2-A-0.wav", "duplicate row")]


def test_esc50_that_is_not_there_or_wrong(tmp_path):
    with pytest.raises(UserError, match=r"esc50\.csv or meta\.csv is neither in"):
        Esc50(source_dir=tmp_path)
    with pytest.raises(UserError, match="no split 'fold2', expected some of fold1, fold3"):
        Esc50(source_dir=write_corpus(tmp_path, ESC50, {}), splits=["fold2"])
    (tmp_path / "meta" / "esc50.csv").write_text(f"{ESC_HEADER}a.wav,1,dog,0,,,")
    with pytest.raises(UserError, match="line 2: fold and target are '1' and 'dog', expected num"):
        Esc50(source_dir=tmp_path)


def test_one_fold_of_urbansound8k(tmp_path):
    table = "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
    table += "7-3-0-0.wav,7,0.0,4.0,1,2,3,dog_bark\n8-8-0-1.wav,8,1.0,2.0,2,10,8,siren\n"
    audio = {"audio/fold2": "7-3-0-0", "audio/fold10": "8-8-0-1"}
    source = write_corpus(tmp_path / "urban", {"metadata/UrbanSound8K.csv": table}, audio)
    data_dir = build(UrbanSound8k(source_dir=source, splits=["fold10"]), tmp_path)
    assert labels_of(data_dir) == {"fold10": {"8-8-0-1": [1]}}
    assert split_index_files.class_names(data_dir) == ("dog_bark", "siren")  # of the whole table


def test_fsdkaggle2018(tmp_path):
    meta = "FSDKaggle2018.meta"
    tables = {
        f"{meta}/train_post_competition.csv": "fname,label\n"
        "00044347.wav,Hi-hat\n001ca53d.wav,Saxophone\n002d256b.wav,Hi-hat\n",
        f"{meta}/test_post_competition_scoring_clips.csv": "fname,label,usage,freesound_id,"
        "license\n00326aa9.wav,Saxophone,Private,355125,Attribution\n"
        "0038a046.wav,Hi-hat,Public,90621,Attribution\n",
    }
    audio = {
        "FSDKaggle2018.audio_train": "00044347 001ca53d 002d256b",
        "FSDKaggle2018.audio_test": "00326aa9 0038a046",
    }
    source = write_corpus(tmp_path / "source", tables, audio)
    data_dir = build(FsdKaggle2018(source_dir=source), tmp_path)
    assert split_index_files.class_names(data_dir) == ("Hi-hat", "Saxophone")
    assert labels_of(data_dir) == {
        "train": {"00044347": [0], "001ca53d": [1], "002d256b": [0]},
        "test": {"00326aa9": [1], "0038a046": [0]},
    }
    assert report_of(data_dir)["problems"] == []


def write_fsd50k(root: pathlib.Path) -> pathlib.Path:
    truth = "FSD50K.ground_truth"
    vocabulary = "0,Accordion,/m/0mkg\n1,Bark,/m/05tny_\n2,Dog,/m/0bt9lr\n"
    tables = {
        f"{truth}/vocabulary.csv": vocabulary,
        f"{truth}/dev.csv": "fname,labels,mids,split\n"
        '64760,"Bark,Dog","/m/05tny_,/m/0bt9lr",train\n'
        "16399,Accordion,/m/0mkg,train\n"
        '16401,"Dog,Wolf","/m/0bt9lr,/m/x",val\n'
        "16402,Wolf,/m/x,val\n",
        f"{truth}/eval.csv": 'fname,labels,mids\n37199,"Dog","/m/0bt9lr"\n',
    }
    audio = {"FSD50K.dev_audio": "64760 16399 16401 16402", "FSD50K.eval_audio": "37199"}
    return write_corpus(root, tables, audio)


def test_fsd50k(tmp_path):
    data_dir = build(Fsd50k(source_dir=write_fsd50k(tmp_path / "FSD50K")), tmp_path)
    assert split_index_files.class_names(data_dir) == ("Accordion", "Bark", "Dog")
    assert (pathlib.Path(data_dir) / "classes.csv").read_text().endswith("2,/m/0bt9lr,Dog\n")
    assert labels_of(data_dir) == {
        "train": {"64760": [1, 2], "16399": [0]},
        "val": {"16401": [2]},
        "eval": {"37199": [2]},
    }
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
        build(Fsd50k(source_dir=source), tmp_path)


def test_fsdkaggle2019(tmp_path):
    meta, header = "FSDKaggle2019.meta", "fname,labels,freesound_id,license\n"
    tables = {
        f"{meta}/train_curated_post_competition.csv": f"{header}0006ae4e.wav,Bark,1,x\n"
        '0019ef41.wav,"Bark,Meow",2,x\nf76181c4.wav,Bark,3,x\n1d44b0bd.wav,Meow,4,x\n',
        f"{meta}/train_noisy_post_competition.csv": "fname,labels,flickr_video_URL,license\n"
        "00097e21.wav,Raindrop,u,x\n",
        f"{meta}/test_post_competition.csv": "fname,labels,usage,freesound_id,license\n"
        "4260ebea.wav,Meow,Public,5,x\n",
    }
    audio = {
        "FSDKaggle2019.audio_train_curated": "0006ae4e 0019ef41 f76181c4 1d44b0bd",
        "FSDKaggle2019.audio_train_noisy": "00097e21",
        "FSDKaggle2019.audio_test": "4260ebea",
    }
    source = write_corpus(tmp_path / "source", tables, audio)
    data_dir = build(FsdKaggle2019(source_dir=source), tmp_path)
    assert split_index_files.class_names(data_dir) == ("Bark", "Meow", "Raindrop")
    assert labels_of(data_dir) == {
        "train_curated": {"0006ae4e": [0], "0019ef41": [0, 1]},
        "train_noisy": {"00097e21": [2]},
        "test": {"4260ebea": [1]},
    }
    assert report_of(data_dir)["splits"]["train_curated"]["problems"] == {"known bad": 2}
    assert problems_of(data_dir, "1d44b0bd.wav") == [("known bad", "known to be silent; left out")]
