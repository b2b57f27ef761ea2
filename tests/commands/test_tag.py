"""The command line: every format, folders, bad files, and what it prints."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from unittest import mock

import audio_files
import numpy as np
import places
import pytest
import tagging

from psl_jax.audio import audio_input
from psl_jax.commands import tag
from psl_jax.runtime import progress
from psl_jax.runtime.errors import UserError
from psl_jax.tagging import output_formats, spectrogram


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tagging.save(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three good files in it, one of them in a folder of its own."""
    root = tmp_path_factory.mktemp("audio")
    audio_files.write(root / "a.flac", tagging.recording(6.3))
    audio_files.write(root / "b, c.mp3", audio_files.tone(2.0, 44_100, 2), 44_100)
    audio_files.write(root / "deep" / "a.wav", audio_files.tone(0.3))
    (root / "notes.txt").write_text("not looked at")
    return root


@pytest.fixture
def run(model, capsys, monkeypatch):
    """Runs the command line: (exit status, standard output, standard error)."""
    monkeypatch.setattr("psl_jax.tagging.tagger.load_model", lambda *_: tagging.model())

    def call(*arguments):
        status = tag.main(tag.parse(["tag", model, *map(str, arguments)]))
        return status, *capsys.readouterr()

    return call


def tags_of(path, **settings):
    return tagging.tagger().tag(path, segment_seconds=2.0, **settings)


def test_table(run, folder):
    status, out, err = run(folder / "a.flac", "--top_k=3", "--threshold=0.7")
    tags = tags_of(folder / "a.flac")
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[0] == f"{folder / 'a.flac'}  (0:06.3)"
    for line, (label, score) in zip(lines[2:5], tags.top(3), strict=True):
        assert line.startswith(f"  {score:.3f}  ") and label in line
    intervals = sum(line.count("–") for line in lines[2:5])
    best = [label for label, _ in tags.top(3)]
    events = tags.events(0.7)
    assert 0 < intervals <= sum(event.label in best for event in events)
    assert ("also, at times:" in out) == any(event.label not in best for event in events)


def test_without_events_the_highest_score_is_told(run, folder):
    peaks = tags_of(folder / "a.flac").frame_scores.max(axis=0)
    _, out, _ = run(folder / "a.flac", "--threshold=1")
    assert f"no event reaches its threshold; try --threshold below {peaks.max():.3f}\n" in out
    _, out, err = run(folder / "a.flac", folder / "deep", "--format=csv", "--threshold=1")
    assert out.splitlines() == ["file,onset,offset,label,score"]
    assert "files without events: 2 of 2, as no score reaches its threshold there." in err


def test_csv_of_a_folder(run, folder):
    status, out, err = run(folder, "--format=csv", "--median_filter=3")
    rows = list(csv.DictReader(io.StringIO(out)))
    files = [folder / "a.flac", folder / "b, c.mp3", folder / "deep" / "a.wav"]
    expected = [
        [str(path), f"{e.onset:.2f}", f"{e.offset:.2f}", e.label, f"{e.score:.4f}"]
        for path in files
        for e in tags_of(path).events(0.5, median_filter=3)
    ]
    assert [list(row.values()) for row in rows] == expected and len(rows) > 0
    assert (status, err) == (0, f"{folder}: 3 audio files; passed over 1: 1 .txt\n")


def test_json_lines(run, folder):
    _, out, _ = run(folder, "--format=json", "--top_k=2")
    found = [json.loads(line) for line in out.splitlines()]
    assert [entry["seconds"] for entry in found][0::2] == [6.3, 0.3]
    assert [len(entry["tags"]) for entry in found] == [2, 2, 2]
    tags = tags_of(folder / "a.flac")
    assert found[0]["tags"][0]["label"] == tags.top(1)[0][0]
    assert [e["onset"] for e in found[0]["events"]] == [round(e.onset, 2) for e in tags.events()]


def test_audacity_labels(run, folder):
    _, out, _ = run(folder / "a.flac", "--format=audacity")
    lines = [line.split("\t") for line in out.splitlines()]
    assert len(lines) == len(tags_of(folder / "a.flac").events()) > 0
    for onset, offset, text in lines:
        assert 0 <= float(onset) < float(offset) <= 6.3
        assert text.rsplit(" ", 1)[0] in tagging.LABELS
    with pytest.raises(UserError, match="--out"):
        run(folder, "--format=audacity")


def test_raven_selections(run, folder, tmp_path):
    _, out, _ = run(folder / "a.flac", "--format=raven")
    header, *rows = csv.reader(io.StringIO(out), delimiter="\t", quoting=csv.QUOTE_NONE)
    events = tags_of(folder / "a.flac").events()
    assert header[3:5] == ["Begin Time (s)", "End Time (s)"] and header[7] == "Annotation"
    assert [row[0] for row in rows] == [str(i + 1) for i in range(len(events))]
    for row, event in zip(rows, events, strict=True):
        assert (float(row[3]), float(row[4])) == pytest.approx((event.onset, event.offset))
        assert row[5:8] == ["0", "8000", event.label]
    audio_files.write(tmp_path / "slow.wav", tagging.recording(3.0), 4_000)
    _, out, _ = run(tmp_path / "slow.wav", "--format=raven")
    high = [line.split("\t")[6] for line in out.splitlines()[1:]]
    assert set(high) == {"2000"}  # Raven opens no table with more than half of a file's rate


def test_only_some_labels(run, folder):
    names = [tagging.LABELS[2], tagging.LABELS[0]]
    _, out, _ = run(folder / "a.flac", "--format=json", f"--labels={'; '.join(names)}")
    found = json.loads(out)
    whole = dict(tags_of(folder / "a.flac").top(6))
    assert {tag["label"]: tag["score"] for tag in found["tags"]} == pytest.approx(
        {name: whole[name] for name in names}, abs=1e-4
    )
    assert {event["label"] for event in found["events"]} <= set(names)
    with pytest.raises(UserError, match=r"'SIRN' \(near: siren\)"):
        run(folder / "a.flac", "--labels=dog;SIRN")


def test_what_is_tagged_already_is_skipped(run, folder, tmp_path):
    run(folder, "--out", tmp_path)
    (tmp_path / "a.csv").write_text("kept")
    (tmp_path / "b, c.csv").unlink()
    status, out, err = run(folder, "--out", tmp_path, "--skip_existing")
    assert status == 0 and "2 of 3 are tagged already" in err and out.startswith("1 file, ")
    assert (tmp_path / "a.csv").read_text() == "kept" and (tmp_path / "b, c.csv").exists()
    assert run(folder, "--out", tmp_path, "--skip_existing")[0] == 0


def test_frames(run, folder):
    _, out, _ = run(folder / "a.flac", "--format=frames", "--hop_seconds=1")
    rows = list(csv.reader(io.StringIO(out)))
    tags = tags_of(folder / "a.flac", hop_seconds=1.0)
    assert rows[0] == ["time", *tagging.LABELS] and len(rows) == len(tags.frame_scores) + 1
    values = np.array(rows[1:], float)
    np.testing.assert_allclose(values[:, 0], tags.frame_times, atol=0.005)
    np.testing.assert_allclose(values[:, 1:], tags.frame_scores, atol=1e-4)


def test_out_writes_a_file_for_each(run, folder, tmp_path):
    status, out, _ = run(folder, "--out", tmp_path / "new")
    written = sorted(str(p.relative_to(tmp_path / "new")) for p in tmp_path.rglob("*.csv"))
    assert written == ["a.csv", "b, c.csv", os.path.join("deep", "a.csv")]
    assert status == 0 and out.startswith("3 files, 0:09 of audio in ") and "csv in " in out
    assert (tmp_path / "new" / "a.csv").read_text().startswith("file,onset,offset,label,score\n")
    for style in ("json", "audacity", "raven", "frames", "table"):
        assert run(folder, "--out", tmp_path / style, "--format", style)[0] == 0
        names = [path.name for path in (tmp_path / style).rglob("*") if path.is_file()]
        assert len([name for name in names if name != output_formats.OutputFolder.RECORD]) == 3
    assert json.loads((tmp_path / "json" / "a.json").read_text())["seconds"] == 6.3


def test_where_no_file_is_tagged_no_output_is_told(run, tmp_path):
    status, out, err = run(tmp_path / "wrong_folder", "--out", tmp_path / "tags")
    assert status == 1 and out == "" and "missing (no such file)" in err


def test_bad_files_are_a_line_each_and_the_rest_go_on(run, folder, tmp_path):
    bad = audio_files.bad_files(tmp_path / "bad")
    empty = tmp_path / "nothing"
    empty.mkdir()
    names = [tmp_path / "bad" / name for name in bad if name != "folder.wav"]
    status, out, err = run(*names[:4], folder / "a.flac", *names[4:], folder, empty, "--format=csv")
    note, *lines = err.splitlines()
    assert note == f"{folder}: 3 audio files; passed over 1: 1 .txt"
    assert status == 1 and len(lines) == len(names) + 1
    for name in names:
        assert any(line.startswith(f"{name}: {bad[name.name]} (") for line in lines), name
    assert lines[0] == f"{empty}: empty (a folder without audio files)"
    assert f"{tmp_path / 'bad' / 'truncated.wav'}: truncated (ends after " in err
    tagged = {row["file"] for row in csv.DictReader(io.StringIO(out))}
    assert str(folder / "a.flac") in tagged and not tagged & set(map(str, names))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top_k=0"], "top_k is 0"),
        (["--labels=;"], "no labels are left"),
        (["--labels=siren;siren"], "siren' is asked for twice"),
        (["--skip_existing"], "--out=DIR"),
        (["--embeddings"], "--out=DIR"),
        (["--segment_seconds=100"], "segment_seconds is 100"),
        (["--hop_seconds=5"], "hop_seconds is 5"),
        (["--plot=x.png"], "one plot for 3 files"),
    ],
)
def test_wrong_settings_are_user_errors(run, folder, arguments, message):
    with pytest.raises(UserError, match=message):
        run(folder, *arguments)


def test_wrong_event_settings_are_told_before_anything_is_made(run, folder, tmp_path):
    table, out = tmp_path / "thresholds.csv", tmp_path / "tags"
    table.write_text("class,threshold\ndog,3\n")
    for wrong in ("--threshold=2", "--median_filter=2", f"--thresholds={table}"):
        with pytest.raises(UserError, match=r"threshold is 2|odd|line 2: the threshold of 'dog'"):
            run(folder, "--out", out, wrong)
        assert not out.exists()


def test_a_recording_of_the_same_name_is_no_tagged_one(run, tmp_path):
    for site, seconds in (("north", 0.5), ("south", 1.0)):
        audio_files.write(tmp_path / site / "0600.wav", audio_files.tone(seconds))
    north, south, out = tmp_path / "north", tmp_path / "south", tmp_path / "tags"
    for options in (["--out", out], ["--out", out, "--skip_existing"], ["--plot", tmp_path / "p"]):
        assert run(north / "0600.wav", *options)[0] == 0
        for second in (south / "0600.wav", south):
            with pytest.raises(UserError, match=r"0600\.(csv|png) is of .*north.0600\.wav"):
                run(second, *options)
    assert run(south, north, "--out", tmp_path / "both")[0] == 0
    assert sorted(tmp_path.glob("both/*/*.csv")) == [
        tmp_path / "both" / site / "0600.csv" for site in ("north", "south")
    ]


def test_killed_after_an_output_it_is_not_another_files(run, tmp_path, monkeypatch):
    for site in ("north", "south"):
        audio_files.write(tmp_path / site / "0600.wav", audio_files.tone(0.5))
    options = ["--out", tmp_path / "tags", "--skip_existing"]
    with monkeypatch.context() as patch:
        patch.setattr(output_formats.OutputFolder, "note", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "north" / "0600.wav", *options)
    _, _, err = run(tmp_path / "south" / "0600.wav", *options)
    assert "tagged already" not in err


def test_the_list_of_outputs_may_end_in_the_middle_of_a_line(run, folder, tmp_path):
    """As where the disk was full."""
    assert run(folder / "a.flac", "--out", tmp_path)[0] == 0
    record = tmp_path / output_formats.OutputFolder.RECORD
    whole = record.read_text()
    record.write_text(f'{whole}["b.csv", "/nor')
    again = f"{folder}/deep/../a.flac"  # the same file as the first
    assert run(folder / "a.flac", again, folder / "deep" / "a.wav", "--out", tmp_path)[0] == 0
    assert record.read_text().startswith(f"{whole}[")


def test_a_name_as_long_as_a_disk_allows(run, tmp_path):
    for name in (f"{'a' * 240}.wav", f"{'b' * 251}.wav", "c.wav"):
        audio_files.write(tmp_path / "audio" / name, audio_files.tone(0.5))
    out = tmp_path / "tags"
    status, _, err = run(tmp_path / "audio", "--out", out, "--skip_existing", "--format=frames")
    assert status == 1 and err.count("too long a name") == 1
    assert sorted(out.glob("*.csv")) == [out / f"{'a' * 240}.frames.csv", out / "c.frames.csv"]


def test_progress_of_many_files_goes_to_standard_error(run, folder, monkeypatch):
    shown = []
    original = progress.bar
    monkeypatch.setattr(
        progress, "bar", lambda *a, **k: shown.append((a, k["show"])) or original(*a, **k)
    )
    monkeypatch.setattr(tag, "MANY_FILES", 3)
    _, out, err = run(folder, "--format=json")
    assert shown == [((3, "file", "tag"), True)]
    assert len(out.splitlines()) == 3 and "3/3" in err


# psl_jax as a program, with a shallow network.
PROGRAM = """
import runpy
from psl_jax.networks import mobilenetv2
from small_network import SHALLOW
mobilenetv2.INVERTED_RESIDUALS = SHALLOW
runpy.run_module("psl_jax", run_name="__main__", alter_sys=True)
"""


def test_as_a_program(model, tmp_path):
    """A real pipe, in a locale of ASCII alone, what comes before a file's name, and the status."""
    path = audio_files.write(tmp_path / "ümläut.wav", tagging.recording(3.0))
    bad = audio_files.write(tmp_path / "bad.wav", np.zeros(0))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "tag", model, "--format=json", "-", path, bad],
        input=path.read_bytes(),
        capture_output=True,
        check=False,
        env=os.environ
        | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        | {"PYTHONPATH": str(places.HELPERS)},
    )
    told = f"{bad}: empty (a header without any audio)"
    assert (done.returncode, done.stderr.decode().splitlines()) == (1, [told])
    piped, read = (json.loads(line) for line in done.stdout.decode("ascii").splitlines())
    assert (piped.pop("file"), read.pop("file")) == ("-", str(path)) and piped == read


def test_a_tone_stands_at_its_frequency_in_a_plot():
    """The brightest row of the drawn spectrogram of 500 Hz is where the axis says 500."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tone = np.sin(2 * np.pi * 500 * np.arange(32_000) / 16_000).astype(np.float32)
    drawn = spectrogram.Spectrogram()
    drawn.add(tone)
    decibel, step = drawn.finish()
    figure = Figure(figsize=(4, 4))
    axes = figure.add_axes((0, 0, 1, 1))
    spectrogram.draw_spectrogram(axes, decibel, step)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].sum(axis=2)
    brightest = np.flatnonzero(pixels[:, 200] == pixels[:, 200].max())
    _, expected = axes.transData.transform((1.0, 500))
    assert brightest.min() - 4 < len(pixels) - expected < brightest.max() + 4
    assert 500 in axes.get_yticks() or 512 in axes.get_yticks()


def test_plots(run, folder, tmp_path, monkeypatch):
    import matplotlib.image

    assert run(folder / "deep", "--plot", tmp_path / "plots")[0] == 0
    decoded, original = [], audio_input.decoding.decode_blocks
    monkeypatch.setattr(
        audio_input.decoding,
        "decode_blocks",
        lambda file, *rest: decoded.append(file) or original(file, *rest),
    )
    assert run(folder / "a.flac", "--plot", tmp_path / "one.png", "--threshold=0.6")[0] == 0
    assert decoded == [str(folder / "a.flac")]  # tags and spectrogram come from one pass
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png"))
    assert names == ["one.png", "plots/a.png"]
    for name in names:
        plot = matplotlib.image.imread(tmp_path / name)
        assert plot.shape[1] == 1650 and len(np.unique(plot[:, :, 0])) > 50


@pytest.mark.parametrize("option", ["--out={}/notes.txt/x", "--plot={}/notes.txt/x.png"])
def test_where_nothing_can_be_written_is_told_before_anything_is_computed(
    run, folder, option, monkeypatch
):
    monkeypatch.setattr(tag, "tag_files", None)
    with pytest.raises(UserError, match=r"cannot write into .*notes.txt.* Choose another --"):
        run(folder / "a.flac", option.format(folder))


def test_the_models_of_a_suite_are_listed(model, folder, tmp_path):
    for name in ("psl2s", "teacher"):
        shutil.copytree(model, tmp_path / name)
    with pytest.raises(UserError, match=r"has models in it: give one of these\n.*psl2s\n.*teacher"):
        tag.main(tag.parse(["tag", str(tmp_path), str(folder / "a.flac")]))


def test_what_a_folder_holds_besides_is_told(run, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "a")
    for name in ("x.TXT", "y.pdf", "README", "._a.flac"):
        (tmp_path / "a" / name).write_text("no audio")
    (tmp_path / "a" / "linked").symlink_to(folder)
    (tmp_path / "a" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    status, _, err = run(tmp_path / "a")
    assert status == 0
    start, _, kinds = err.rstrip().partition("passed over 7: ")
    assert start == f"{tmp_path / 'a'}: 3 audio files; "
    assert kinds.startswith("2 .txt, ")
    assert set(kinds.split(", ")[1:]) == {
        *("1 links to folders", "1 .pdf", "1 others", "1 broken links"),
        "1 resource forks of macOS (._ files)",
    }


def test_embeddings_of_files(run, folder, tmp_path):
    assert run(folder, "--out", tmp_path, "--embeddings")[0] == 0
    expected = tags_of(folder / "a.flac", embeddings=True)
    with np.load(tmp_path / "a.embeddings.npz") as found:
        np.testing.assert_allclose(found["embedding"], expected.embedding, atol=1e-4)
        np.testing.assert_allclose(found["frame_embeddings"], expected.frame_embeddings, atol=1e-4)
        np.testing.assert_allclose(found["frame_times"], expected.frame_times)
    assert len(list(tmp_path.rglob("*.npz"))) == len(list(tmp_path.rglob("*.csv"))) == 3
