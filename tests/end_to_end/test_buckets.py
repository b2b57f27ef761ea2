"""Commands from and to a bucket, on a server of buckets on loopback: the digits of local ones."""

import json
import os
import signal

import audio_files
import audioset_layouts
import audioset_tables
import bucket_server
import forked_python
import places
import prepared_data
import programs
import pytest
import small_suite
from numpy.testing import assert_equal

from psl_jax.corpora import audioset
from psl_jax.data import split_index_files

CONFIG = small_suite.CONFIG.replace(
    'result.data.corpus = "tfds"\n',
    """result.data.corpus = "own_data"
    result.data.clip_seconds = 2.0
    result.data.streamed = True  # as from the bucket
    result.data.validation_split = result.data.eval_split = "eval"
    result.data.train_split = "balanced"
""",
)
TEACHER = '        "teacher": {"labels": "weak"},\n'


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with bucket_server.serving(tmp_path_factory.mktemp("server")) as bucket:
        yield bucket


@pytest.fixture(scope="module")
def s3():
    with bucket_server.serving_s3() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def source(tmp_path_factory, bucket):
    """Recordings of one's own, here and in gs://bkt/source."""
    root = tmp_path_factory.mktemp("source")
    for split, count in (("balanced", 8), ("eval", 5)):
        names = [f"{split}{i}.wav" for i in range(count)]
        for number, name in enumerate(names):
            seconds = 1.2 + 0.1 * number
            audio_files.write(root / name, audio_files.tone(seconds, seed=len(name) + number))
        rows = [(name, "abc"[number % 3]) for number, name in enumerate(names)]
        audio_files.write_table(root / f"{split}.csv", "filename,labels", rows)
    for path in root.iterdir():
        bucket.put(f"source/{path.name}", path.read_bytes())
    return root


@pytest.fixture(scope="module")
def run(bucket, s3, tmp_path_factory):
    """Runs a script of the tests where the buckets are: the finished process."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def start(script, *arguments, **environment):
        done = programs.run(
            [forked_python.path(), places.HELPERS / script, *map(str, arguments)],
            bucket.environment | s3.environment | environment,
            cwd=elsewhere,
        )
        assert not list(elsewhere.iterdir()), "something was written where the process ran"
        return done

    return start


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "config.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def local(run, source, config, tmp_path_factory):
    """The folder of a suite here, and what was said of the data set in gs://bkt/data.

    It is prepared and found again there.
    """
    folder = tmp_path_factory.mktemp("run")
    prepare = ["prepare", "--corpus=own_data", "--source_dir=gs://bkt/source"]
    prepare += ["--data_dir=gs://bkt/data", "--clip_seconds=2"]
    main = ["main", f"--config={config}", f"--workdir={folder}", "--stage=evaluate"]
    main += [f"--config.data.source_dir={source}"]
    to_s3 = ["s3://bkt/data".join(word.split("gs://bkt/data")) for word in prepare]
    done = run("small_commands.py", json.dumps([prepare, prepare, to_s3, main]))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module", params=("gs", "s3"))
def runs(run, local, bucket, s3, config, request):
    """The bucket that holds the local suite's like in BUCKET/run, and its experiments.

    In gs:// the suite was killed once; in s3:// the local teacher teaches.
    """
    store = {"gs": bucket, "s3": s3}[request.param]
    where = f"--workdir={store.url}/run", f"--config.data.data_dir={store.url}/data"
    arguments = ["--config", config, "--config.data.corpus=tfds", *where]
    if request.param == "gs":
        names = ("teacher", "psl2s")
        saving = "--config.train.checkpoint_every=1"
        died = run("small_main.py", *arguments, saving, DIE_AT="batch 6")
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert store.names("run/teacher/checkpoints/")
        assert not store.names("run/teacher/averaged/")
    else:
        names = ("psl2s",)
        arguments[1] = config.with_name("student.py")
        arguments[1].write_text(CONFIG.replace(TEACHER, ""))
        arguments.append(f"--config.experiments.psl2s.teacher={local[0]}/teacher")
    done = run("small_main.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert f"{store.url}/run/report.html" in done.stdout
    return store, names


def test_data_are_prepared_from_and_to_a_bucket(local, bucket, s3):
    folder, told = local
    assert "used again" in told
    found, there = sorted((folder / "data").rglob("*.tfrecord-*")), bucket.names("data/")
    assert len(found) == 13
    for path in found:
        (ours,) = [one for one in there if one.endswith(f"/1.0.0/{path.name}")]
        assert bucket.get(ours) == s3.get(ours) == path.read_bytes()
    assert not [one for one in there if "incomplete" in one or "/part-" in one]


def test_audioset_is_prepared_from_ranges_of_its_archives(run, bucket, s3, tmp_path):
    """Its parquet and tar files in a bucket give the shards that they give on this machine."""
    rows = [audioset_tables.segment(f"bal{k:08d}", 30, 31, (k % 2, 5)) for k in range(8)]
    commands = []
    for layout in ("parquet", "tar"):
        audioset_layouts.LAYOUTS[layout](tmp_path / layout, {row.id: row for row in rows})
        audioset_tables.write_csv(tmp_path / layout / audioset.BALANCED, rows)
        for path in (tmp_path / layout).iterdir():
            for store in (bucket, s3):
                store.put(f"audioset/{layout}/{path.name}", path.read_bytes())
        for name, place in (
            ("disk", tmp_path / layout),
            ("gs", f"{bucket.url}/audioset/{layout}"),
            ("s3", f"{s3.url}/audioset/{layout}"),
        ):
            data_dir = f"--data_dir={tmp_path / 'data' / name / layout}"
            command = ["prepare", "--corpus=audioset", f"--source_dir={place}"]
            commands.append([*command, data_dir])
    done = run("small_commands.py", json.dumps(commands))
    assert done.returncode == 0, done.stderr
    for layout in ("parquet", "tar"):
        hashes = [
            prepared_data.record_hashes(split_index_files.find_data_dir(folder / layout))
            for folder in (tmp_path / "data").iterdir()
        ]
        assert len(hashes) == 3 and hashes[0] and hashes[0] == hashes[1] == hashes[2]


def test_a_run_in_a_bucket_has_the_digits_of_a_local_one(runs, local):
    (bucket, names), folder = runs, local[0]
    for name in names:
        local, place = folder / name, f"run/{name}"
        scores = bucket.get(f"{place}/scores.npz"), (local / "scores.npz").read_bytes()
        small_suite.assert_same_arrays(*scores)
        for file in ("metrics.json", "per_class.csv"):
            assert bucket.get(f"{place}/{file}") == (local / file).read_bytes(), file
        models = bucket.get(f"{place}/averaged/model.json"), local / "averaged" / "model.json"
        ours, theirs = map(json.loads, (models[0], models[1].read_bytes()))
        assert ours["weights_crc32"] == theirs["weights_crc32"]
        logs = bucket.get(f"{place}/train_log.jsonl"), (local / "train_log.jsonl").read_bytes()
        assert small_suite.logged(logs[0]) == small_suite.logged(logs[1])
        assert bucket.names(f"{place}/tb/")
    assert bucket.get("run/results.json") and bucket.get("run/report.html")
    for path in (folder / "psl2s" / "soft_labels").glob("labels-*"):
        assert bucket.get(f"run/psl2s/soft_labels/{path.name}") == path.read_bytes()


@pytest.mark.parametrize("runs", ["s3"], indirect=True)
def test_a_model_and_data_in_a_bucket(run, runs, local, source, tmp_path):
    """relabel, evaluate, tag and export write there what they write here."""

    def commands(model, data, source, out):
        on_data = (model, data, "--split=eval", "--segment_seconds=1")
        return [
            ["relabel", *on_data, f"--out={out}/labels"],
            ["evaluate", *on_data, f"--out={out}/evaluated"],
            ["tag", model, f"{source}/eval0.wav", source, f"--out={out}/tags"],
            ["tag", model, source, f"--out={out}/tags", "--skip_existing"],
            ["export", model, "--format=safetensors", f"--out={out}/m.safetensors"],
            ["tag", f"{out}/m.safetensors", f"{source}/eval1.wav", "--format=json"],
        ]

    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    here = commands(f"{local[0]}/psl2s", f"{local[0]}/data", str(source), tmp_path)
    bucket, _ = runs
    url = bucket.url
    there = commands(f"{url}/run/psl2s", f"{url}/data", "gs://bkt/source", f"{url}/made")
    done = run("small_commands.py", json.dumps([*here, *there]))
    assert done.returncode == 0, done.stderr
    written = sorted(path for path in tmp_path.rglob("[!.]*") if path.is_file())
    kinds = {path.suffix for path in written}
    assert {".npy", ".npz", ".csv", ".json", ".safetensors"} <= kinds
    for path in written:
        ours = bucket.get(f"made/{path.relative_to(tmp_path).as_posix()}")
        theirs = path.read_bytes()
        if path.suffix == ".npz":
            small_suite.assert_same_arrays(ours, theirs)
        elif path.suffix == ".safetensors":  # what is told of the arrays has no order
            assert_equal(*map(safetensors.load, (ours, theirs)))
        elif path.parent.name == "tags":
            assert ours == theirs.replace(os.fsencode(source), b"gs://bkt/source")
        else:
            assert ours == theirs, path.name
    here, there = [line for line in done.stdout.splitlines() if line.startswith('{"file"')]
    assert there == here.replace(os.fspath(source), "gs://bkt/source")


@pytest.mark.parametrize("lost", ["gs://lost", "s3://lost"])
def test_a_place_that_cannot_be_used_is_one_line(run, lost):
    done = run("small_main.py", "--config=quickstart", f"--workdir={lost}/run")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{lost}/run: there is no bucket {lost}" in done.stderr
