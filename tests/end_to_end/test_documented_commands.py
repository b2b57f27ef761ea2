"""Every command of README.md and docs/ is run, in a small place, or left out for a reason.

A run is trained for two steps where other commands need it. Other configs go as far as their plan:
settings, data, teachers and run folders of all their experiments are checked by then.
"""

import contextlib
import glob
import importlib
import importlib.util
import json
import pathlib
import re
import shlex
import shutil
import sys

import audio_files
import audioset_layouts
import audioset_tables
import places
import programs
import pyarrow.parquet
import pytest
import tpu_cloud
from main_command import SMALL

from psl_jax import cli
from psl_jax.experiments import suite

# ml-collections loads a config by a method that Python 3.12 has no more.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("empty_figures"),
]
DOCUMENTS = [places.ROOT / "README.md", *sorted((places.ROOT / "docs").glob("*.md"))]
# The beginnings of commands that are not run here, by the reason.
LEFT_OUT = {
    "installs packages or weights: test_installed.py installs the package": (
        *("python3 -m venv", ".venv/bin/pip install", "pip install"),
    ),
    "needs the published weights of others: tests/teachers runs such teachers": (
        *("psl-jax tag mn04", "psl-jax evaluate mn:", "psl-jax main --config own_data:unlabelled"),
        *("psl-jax relabel mn:", "psl-jax relabel tflite:", "psl-jax relabel transformers:"),
        *("psl-jax labels resegment labels/patches", "psl-jax fit mn:"),
        "psl-jax main --config configs/psl2s.py --config.teacher=",
        "python -m psl_jax.main --config configs/psl2s.py --config.data.data_dir=DATA "
        "--config.teacher=mn:",
    ),
    "needs a published corpus: tests/corpora reads small ones in their form": (
        *(f"python -m psl_jax.main --config {name}" for name in ("table5", "fsd50k", "esc50")),
    ),
    "test_buckets.py runs it in a bucket": (
        "psl-jax prepare --corpus own_data --source_dir gs://",
        "psl-jax main --config configs/psl2s.py --workdir gs://",
        *("psl-jax evaluate gs://", "psl-jax tag gs://", "psl-jax export gs://"),
    ),
    "needs a cluster: tests/preparing, tests/commands and tests/launch do it in small": (
        *("psl-jax prepare --corpus audioset ...", "kubectl apply", "PROJECT=p"),
        "psl-jax relabel runs/teacher DATA --segment_seconds=2 --out=labels/beam",
    ),
    "needs data with times: tests/tagging and tests/commands have some": (
        *("psl-jax thresholds RUN", "psl-jax evaluate RUN"),
    ),
    "asks a server that runs: tests/web asks the same": ("curl",),
    "asks for a password": ("gcloud auth", "aws configure"),
    "is this test": (".venv/bin/python -m pytest",),
    "kills programs for minutes": ("python tests/faults/",),
    "publishes, or downloads what is published": ("hf upload", "curl -LO https://zenodo.org"),
    "needs a network of all blocks: test_publish.py": ("psl-jax publish",),
    "test_export.py converts": ("psl-jax export runs/psl2s --format=tflite",),
    "shows a file": ("cat labelled/validation.csv",),
    "is the form of the commands below it": ("psl-jax prepare --corpus CORPUS",),
}
BEGINNINGS = tuple(beginning for each in LEFT_OUT.values() for beginning in each)
FIRST = ("prepare --corpus audioset", "configs/teacher.py", "configs/psl2s.py")


class PlanIsMadeError(Exception):
    """Ends a run that has been checked."""


def commands(document: pathlib.Path) -> list[str]:
    """The commands of a document's blocks of bash, each as one line."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", document.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = re.sub(r"\s+# .*", "", line).strip()
            parts = [part.strip() for part in re.split(r" && (?=\.venv)", words)]
            found += [" ".join(part.split()) for part in parts if part]
    return found


def segments(split: str) -> list:
    clips = [f"{split[:3]}{number:08d}" for number in range(6)]
    return [audioset_tables.segment(clip, 30, 32, (k % 2, 5)) for k, clip in enumerate(clips)]


def write_recordings(folder: pathlib.Path, splits: tuple[str, ...], classes: list[str]) -> None:
    """A folder as configs/own_data.py takes it."""
    for split in splits:
        rows = ["filename,labels"]
        for k in range(6):
            tone = audio_files.tone(2.0, seed=k)
            audio_files.write(folder / "audio" / f"{split}{k}.wav", tone)
            rows.append(f"audio/{split}{k}.wav,{classes[k % 2]}")
        (folder / f"{split}.csv").write_text("\n".join(rows))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder in which commands are given: what they name lies there, finished runs too."""
    folder = tmp_path_factory.mktemp("documents")
    for split in ("balanced_train", "eval", "unbalanced_train"):
        rows = segments(split)
        audioset_tables.write_csv(folder / "CSVS" / f"{split}_segments.csv", rows)
        by_id = {segment.id: segment for segment in rows}
        audioset_layouts.write_folder(folder / "AUDIO", by_id, "Y{id}", "wav")
    write_recordings(folder / "FOLDER", ("full", "balanced", "eval"), ["a", "b"])
    write_recordings(folder / "labelled", ("validation",), ["Dog", "Rain"])
    recordings = "street.mp3 recordings/one.mp3 rec/a.wav disk/deep/b.flac c.wav owl.wav"
    for name in recordings.split():
        audio_files.write(folder / name, audio_files.tone(2.0))
    names = [f"{segment.id}.wav" for segment in segments("balanced_train")]
    table = {"filename": names, "start": [0.0] * 6, "end": [2.0] * 6}
    table |= {"idxs": ["0;5"] * 6, "prob": ["0.5;0.25"] * 6}
    sat = folder / "balanced_vit_base_chunked2s_topk10_47_40.parquet"
    pyarrow.parquet.write_table(pyarrow.table(table), sat)
    decision = "bal00000000,0,2,Owl,no,ann,2026-03-02T09:15:08+00:00"
    (folder / "corrections.csv").write_text(
        f"filename,onset,offset,label,decision,who,when\n{decision}\n"
    )
    for name in ("configs", "launch"):
        (folder / name).symlink_to(places.ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for beginning in FIRST:
            run(next(c for c in commands(DOCUMENTS[0]) if beginning in c), patch)
        shutil.copytree("runs/psl2s", "MODEL")
        for name, source in (("teacher", "teacher"), ("full_psl2s", "psl2s")):
            shutil.copytree(f"runs/{source}", f"runs/table4/{name}")
        yield patch


@pytest.fixture(scope="module")
def done() -> set[str]:
    """Commands that were given: several documents have the same ones."""
    return set()


def run(command: str, patch: pytest.MonkeyPatch) -> None:
    """Gives one command; those of `psl_jax.main` are small, and only some of them train."""
    words, _, output = command.partition(" > ")
    arguments = [
        path
        for word in shlex.split(words)
        for path in (sorted(glob.glob(word)) if word.startswith("*") else [word])
    ]
    if arguments[0] == "psl-jax":
        name, *arguments = arguments[1:]
    else:
        assert arguments[1:3] == ["-m", "psl_jax.main"], command
        name, arguments = "main", arguments[3:]
    module = importlib.import_module(cli.module_of(name))
    patch.setattr(sys, "argv", [f"psl-jax {name}", *arguments])
    if name == "main":
        run_main(module, arguments)
        return
    status = module.main(module.parse(sys.argv))
    assert not status and (not output or not status), command


def run_main(module, arguments: list[str]) -> None:
    def stop(runs):
        raise PlanIsMadeError

    trains = {"runs/teacher", "runs/psl2s"} & set(arguments)
    with pytest.MonkeyPatch.context() as stopping, contextlib.suppress(PlanIsMadeError):
        if not trains:
            stopping.setattr(suite, "describe_plan", stop)
        module.main(module.parse([sys.argv[0], *arguments, *SMALL]))
        assert trains


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if d.name != "LAUNCH.md"], ids=lambda path: path.name
)
def test_commands_of_a_document(document, place, done, monkeypatch):
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: None)
    failed = {}
    for command in commands(document):
        name = command.replace("python -m psl_jax.main", "psl-jax main")
        if not (command.startswith(BEGINNINGS) or name in done or any(f in command for f in FIRST)):
            done.add(name)
            try:
                run(command, place)
            except (Exception, SystemExit) as error:
                failed[command] = f"{type(error).__name__}: {error}"
    assert not failed, json.dumps(failed, indent=1)


def test_launchers_of_a_document(tmp_path):
    """LAUNCH.md's blocks in a shell, with a cloud that is a folder and a Slurm that notes."""
    cloud = tpu_cloud.Cloud(tmp_path)
    cloud.plan(statuses={"host0": [0], "host1": [0]})
    for name in ("sbatch", "sudo", "mount"):
        note = f'#!/bin/bash\necho {name} "$@" >> {tmp_path}/called\n'
        programs.write(tmp_path / "bin" / name, note)
    environment = cloud.environment(PYTHON="python")
    for command in commands(places.ROOT / "docs" / "LAUNCH.md"):
        if command.startswith("export"):
            words = [word.split("=", 1) for word in shlex.split(command)[1:]]
            environment |= dict(words) | {"ZONE": "here"}
        elif not command.startswith(BEGINNINGS):
            done = programs.run(["bash", "-c", command], environment, cwd=places.ROOT)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
    started = [start["argv"][:3] for start in cloud.starts()]
    assert started == [["-m", "psl_jax", name] for name in ("main", "relabel")]
    called = (tmp_path / "called").read_text()
    assert "sbatch --nodes=2" in called and "mount 10.0.0.2:/share /mnt/shared" in called


def test_what_is_left_out_is_documented():
    found = [command for document in DOCUMENTS for command in commands(document)]
    unused = [b for b in BEGINNINGS if not any(command.startswith(b) for command in found)]
    assert not unused, json.dumps(unused)


@pytest.mark.parametrize("document", ["API.md", "EXTENDING.md"])
def test_code_of_a_document(document, place):
    del place
    audio_files.write(pathlib.Path("BY_CLASS/dog/a.wav"), audio_files.tone(1.0))
    text = (places.ROOT / "docs" / document).read_text()
    namespace: dict = {"__name__": document}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if "def tag(waves)" in block:
            pathlib.Path("loudness.py").write_text(block)
        exec(compile(block, document, "exec"), namespace)


@pytest.mark.parametrize("name", ["own_recordings_to_tags", "soft_labels_in_your_model"])
def test_cells_of_a_notebook(name, place):
    """Its commands as those of documents; a finished run stands for the one that it trains."""
    notebook = json.loads((places.ROOT / "notebooks" / f"{name}.ipynb").read_text())
    namespace: dict = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"]).replace("STEPS = 8, 20", "STEPS = 2, 2")
        is_missing = any(
            f"import {name}" in source or f"from {name} import" in source
            for name in ("torch", "datasets")
            if importlib.util.find_spec(name) is None
        )
        if cell["cell_type"] != "code" or is_missing:
            continue
        if "psl_jax.load" in source:
            shutil.copytree("runs/psl2s", "runs/own/psl2s", dirs_exist_ok=True)
        if source.startswith("!"):
            run(source.removeprefix("!"), place)
        else:
            exec(compile(source, name, "exec"), namespace)
