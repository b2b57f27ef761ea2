"""Whatever the bytes of a file from outside: a result, or an error in words.

EXAMPLES=12000 python -m pytest tests/end_to_end/test_outside_input.py tries 12,000 cases of each
kind, as was done once; the usual few find what newly breaks. Memory stays under 1 GiB.
"""

import contextlib
import io
import json
import os
import pathlib
import resource
import tarfile

import audio_files
import audioset_tables
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_data import make_index, write_soft_labels

from psl_jax.audio import decoding
from psl_jax.audio.decoding import DecodeError
from psl_jax.audio.segments import Segmentation
from psl_jax.corpora.annotations.table_events import Hints
from psl_jax.corpora.audio_folders import Scan
from psl_jax.corpora.audioset import read_segments, read_strong_labels
from psl_jax.corpora.own_folder import read_own_folder
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.networks.class_lists import read_classes
from psl_jax.runtime.errors import UserError
from psl_jax.weights import load_model

EXAMPLES = int(os.environ.get("EXAMPLES", "60"))
GIBIBYTE_KB = 1 << 20

many = settings(
    max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

# Where a change is made (of the length), how, and with what.
changes = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["replace", "insert", "delete", "end", "repeat"]),
        st.binary(min_size=1, max_size=8),
    ),
    max_size=5,
)
texts = st.text(st.sampled_from(' ,;"\n\r\t\0#/\\abé0123.-_' + "\ud7ff\ufeff"), max_size=60)


def changed(content: bytes, edits) -> bytes:
    data = bytearray(content)
    for place, kind, what in edits:
        at = round(place * len(data))
        if kind == "replace":
            data[at : at + len(what)] = what
        elif kind == "insert":
            data[at:at] = what
        elif kind == "delete":
            del data[at : at + 16 * len(what)]
        elif kind == "end":
            del data[at:]
        else:
            data[at:at] = data[at : at + 64]
    return bytes(data)


@contextlib.contextmanager
def in_words():
    """Nothing but an error in words."""
    with contextlib.suppress(UserError, DecodeError):
        yield


@pytest.fixture(autouse=True)
def memory():
    """What all cases took more than what was there before."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GIBIBYTE_KB


# --- tables -----------------------------------------------------------------------------------


OWN = {
    "full.csv": 'filename,labels\na.wav,dog;cat\n"b, c.wav",dog\nx/é.wav,"cat"\n',
    "full_events.csv": "filename,onset,offset,label\na.wav,0,1,dog\n",
}
SEGMENTS = (
    f'{audioset_tables.HEADER}--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
    'abcdefghijk, 0.000, 10.000, "/m/09x0r"\n'
)
STRONG = (
    "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\nabcdefghijk_0\t0.1\t1.5\t/m/09x0r\n"
)


def read_own(path):
    """The folder of one of OWN."""
    for name in OWN.keys() - {path.name}:
        path.with_name(name).write_text(OWN[name])
    read_own_folder(path.parent, Hints())


def read_strong(path):
    segments = {"abcdefghijk": audioset_tables.segment("abcdefghijk", 0.0, 10.0)}
    read_strong_labels(path, segments, audioset_tables.CLASSES)


TABLES = {name: (read_own, content) for name, content in OWN.items()} | {
    "segments.csv": (lambda path: read_segments(path, audioset_tables.CLASSES), SEGMENTS),
    "strong.csv": (read_strong, STRONG),
    "classes.csv": (read_classes, "index,mid,display_name\n0,/m/0,dog\n1,/m/1,cat\n"),
    "names.csv": (read_classes, "label\ndog\ncat\n"),
}


@pytest.mark.parametrize("name", TABLES)
@many
@given(edits=changes, more=texts)
def test_tables(tmp_path, name, edits, more):
    read, content = TABLES[name]
    (tmp_path / name).write_bytes(changed(content.encode(), edits) + more.encode())
    with in_words():
        read(tmp_path / name)


# --- audio ------------------------------------------------------------------------------------


def encoded(file_format, rate=44_100, **options) -> bytes:
    tone = audio_files.tone(0.5, rate, 2)
    return audio_files.encoded(tone, rate, file_format, **options).read()


AUDIO = {kind: encoded(kind) for kind in ("WAV", "AIFF", "AU", "CAF", "W64", "FLAC", "MP3", "OGG")}
AUDIO |= {"FLOAT": encoded("WAV", subtype="FLOAT"), "OPUS": encoded("OGG", 48_000, subtype="OPUS")}
starts = st.lists(  # headers are where it matters
    st.tuples(st.floats(0, 0.01), st.sampled_from(["replace", "insert"]), st.binary(max_size=8)),
    max_size=4,
)


@many
@given(name=st.sampled_from(sorted(AUDIO)), head=starts, edits=changes)
def test_audio_files(name, head, edits):
    content = changed(changed(AUDIO[name], head), edits)
    with in_words():
        audio = decoding.decode(io.BytesIO(content), 2.0)
        assert len(audio.samples) <= 32_000 and audio.samples.dtype == np.int16
    with in_words():
        for _ in decoding.decode_blocks(io.BytesIO(content)):
            break


# --- archives ---------------------------------------------------------------------------------


class Quiet(dict):
    """Contents that no message is to print."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


@pytest.fixture(scope="module")
def archives():
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in ("a.flac", "b.wav"):
            member = tarfile.TarInfo(name)
            member.size = len(AUDIO["FLAC"])
            archive.addfile(member, io.BytesIO(AUDIO["FLAC"]))
    parquet = io.BytesIO()
    rows = [{"id": name, "audio": {"bytes": AUDIO["FLAC"], "path": name}} for name in "ab"]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    return Quiet(tar=tar.getvalue(), parquet=parquet.getvalue())


@many
@given(
    kind=st.sampled_from(["tar", "parquet"]),
    edits=changes,
    ends=st.lists(
        st.tuples(st.floats(0.97, 1), st.sampled_from(["replace"]), st.binary(max_size=4)),
        max_size=3,
    ),
)
def test_archives(tmp_path, archives, kind, edits, ends):
    for old in tmp_path.iterdir():
        old.unlink()
    path = tmp_path / f"{len(edits)}{len(ends)}.{kind}"
    path.write_bytes(changed(changed(archives[kind], edits), ends))
    from psl_jax.corpora import stored_audio

    stored_audio._parquet_group.cache_clear()
    with in_words():
        for found in Scan(str(tmp_path)):
            with in_words():
                found.audio.decode(1.0)


# --- soft labels and models -------------------------------------------------------------------


@contextlib.contextmanager
def replaced(path, content):
    """A file has another content for a while."""
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    place = folder, make_index([3], 32_000), Segmentation(1.0)
    write_soft_labels(*place)
    return place


@pytest.mark.parametrize("pattern", ["labels-*", "manifest.json"])
@many
@given(edits=changes)
def test_soft_labels(labels, pattern, edits):
    (path,) = labels[0].glob(pattern)
    with replaced(path, changed(path.read_bytes(), edits)), in_words():
        SoftLabels.open(*labels, "teacher").read_shard(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    import tagging

    return pathlib.Path(tagging.save(tmp_path_factory.mktemp("run")))


@many
@given(edits=changes, whole=st.booleans(), value=st.none() | st.integers() | st.text(max_size=5))
def test_model_json(run, monkeypatch, edits, whole, value):
    path = next(run.rglob("model.json"))
    content = path.read_bytes()
    described = json.loads(content)
    for name in list(described)[: len(edits)]:
        described[name] = value
    # The arrays are whole.
    monkeypatch.setattr("orbax.checkpoint.v1.metadata", lambda *_: pytest.skip("not read"))
    new = changed(content, edits) if whole else json.dumps(described).encode()
    with replaced(path, new), in_words(), contextlib.suppress(pytest.skip.Exception):
        load_model.load_model(run)


@pytest.fixture(scope="module")
def checkpoint():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    content = io.BytesIO()
    torch.save({"a": torch.zeros(3), "b": {"c": torch.ones(2, 2)}}, content)
    return content.getvalue()


@many
@given(edits=changes)
def test_pytorch_files(tmp_path, checkpoint, edits):
    path = tmp_path / "x.pt"
    path.write_bytes(changed(checkpoint, edits))
    with in_words():
        load_model.load_model(path)
