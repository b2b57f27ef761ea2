"""The training log survives interruptions."""

import contextlib
import json
import sqlite3
import struct
import subprocess
import sys

import numpy as np
import pytest

from psl_jax.runtime.errors import UserError
from psl_jax.training import loggers
from psl_jax.training.loggers import check_loggers
from psl_jax.training.metric_log import LOG_NAME, MetricLog, read_log


def without_times(lines):
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def write_steps(log, steps):
    for step in steps:
        log.write(step, {"loss": 1.0 / step})
        if step % 5 == 0:
            log.write(step, {"val_mAP": step / 100})


def test_lines_are_flushed_and_read_back(tmp_path):
    with MetricLog(tmp_path) as log:
        log.write(1, {"loss": np.float32(0.5), "count": 3, "size": np.array(2)})
        log.write(2, {"loss": float("nan")})
        lines = read_log(tmp_path)
    first, second = {"step": 1, "loss": 0.5, "count": 3, "size": 2}, {"step": 2, "loss": None}
    assert without_times(lines) == [first, second]
    assert all(line["time"] > 1e9 for line in lines)


def test_an_interrupted_runs_log_is_an_undisturbed_ones(tmp_path):
    with MetricLog(tmp_path / "undisturbed") as log:
        write_steps(log, range(1, 21))
    with MetricLog(tmp_path / "killed") as log:
        write_steps(log, range(1, 14))
    path = tmp_path / "killed" / LOG_NAME
    with path.open("a") as file:
        file.write('{"step": 14, "time": 17')
    with MetricLog(tmp_path / "killed", resume_step=10) as log:
        assert read_log(tmp_path / "killed")[-1]["step"] == 10
        write_steps(log, range(11, 21))
    killed, undisturbed = (without_times(read_log(tmp_path / x)) for x in ("killed", "undisturbed"))
    assert killed == undisturbed
    assert not list(path.parent.glob("*.tmp"))


@pytest.mark.parametrize("resume_step", [None, 0])
def test_a_run_from_the_start_begins_an_empty_log(tmp_path, resume_step):
    with MetricLog(tmp_path) as log:
        log.write(0, {"val_mAP": 0.1})
    with MetricLog(tmp_path, resume_step):
        assert read_log(tmp_path) == []


def test_half_a_last_line_is_dropped_and_other_damage_reported(tmp_path):
    path = tmp_path / LOG_NAME
    path.write_text('{"step": 1, "loss": 2}\n{"step": 2, "lo')
    assert read_log(tmp_path) == [{"step": 1, "loss": 2}]
    path.write_text('{"step": 1, "loss": 2}\n{"step"\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        read_log(tmp_path)
    path.write_bytes(b'{"step": 1}\n\xff\xfe')
    assert read_log(tmp_path) == [{"step": 1}]


def test_inactive_writes_nothing(tmp_path):
    with MetricLog(tmp_path / "run", active=False) as log:
        log.write(1, {"loss": 1.0})
    assert not (tmp_path / "run").exists() and read_log(tmp_path / "run") == []


def test_events_hold_the_values(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto import event_pb2

    for resume_step in (None, 4):
        with MetricLog(tmp_path, resume_step) as log:
            log.write(5, {"loss": 0.25})
    events = []
    for path in sorted((tmp_path / "tb").iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            events.append(event_pb2.Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    scalars = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert scalars == [(5, "loss", 0.25)] * 2
    restart = event_pb2.SessionLog.SessionStatus.Value("START")
    assert [e.step for e in events if e.session_log.status == restart] == [1, 5]


def log_elsewhere(folder, before, after):
    """Logs a loss in a process of its own, between other lines."""
    program = (
        f"import sys; {before}\nfrom psl_jax.training.metric_log import MetricLog\n"
        f"with MetricLog({str(folder)!r}) as log: log.write(1, {{'loss': 1}})\n{after}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert [line["loss"] for line in read_log(folder)] == [1]
    return (folder / "tb").exists()


def test_pytorch_is_not_imported_and_can_be_later(tmp_path):
    pytest.importorskip("tensorboardX")
    (tmp_path / "torch.py").write_text("TENSOR = 1")
    after = "assert 'tensorboardX' in sys.modules and 'torch' not in sys.modules\n"
    after += "import torch; assert torch.TENSOR"
    assert log_elsewhere(tmp_path, f"sys.path.insert(0, {str(tmp_path)!r})", after)


def test_without_tensorboardx_and_without_tensorflow(tmp_path):
    after = "assert not {'tensorflow', 'jax', 'wandb', 'trackio', 'mlflow'} & set(sys.modules)"
    assert not log_elsewhere(tmp_path, "sys.modules['tensorboardX'] = None", after)


def write_and_continue(folder, logger):
    """Five steps, a kill after the checkpoint of the third, and the rest."""
    (folder / "config.json").write_text('{"seed": 3, "train": {"batch_size": 8}}')
    with MetricLog(folder, loggers=logger) as log:
        write_steps(log, range(1, 6))
    with MetricLog(folder, resume_step=3, loggers=logger) as log:
        write_steps(log, range(4, 11))


def read_wandb(path):
    """The records of an offline run: parts of them in blocks of 32 KiB, after 7 bytes."""
    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := -place % (1 << 15)) < 7 and left:
            place += left
            continue
        size, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        part, place = data[place + 7 : place + 7 + size], place + 7 + size
        record = part if kind in (1, 2) else record + part  # whole or first; middle or last
        if kind in (1, 4):
            yield record


def test_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    write_and_continue(tmp_path, "wandb")
    wandb.teardown()  # as at the end of a process
    identity = (tmp_path / "log_id.txt").read_text()
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*/run-{identity}.wandb"))
    records = [Record.FromString(data) for path in files for data in read_wandb(path)]
    lines = [
        {"".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
        for items in (record.history.item for record in records)
    ]
    losses = [(line["_step"], line["loss"]) for line in lines if "loss" in line]
    steps = [*range(1, 6), *range(4, 11)]
    assert losses == [(step, 1 / step) for step in steps] and len(files) == 2


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    write_and_continue(tmp_path, "mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("psl_jax").experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert {m.step: m.value for m in history} == {step: 1 / step for step in range(1, 11)}
    assert run.data.params == {"seed": "3", "train.batch_size": "8"}
    assert run.info.status == "FINISHED"
    with pytest.raises(KeyboardInterrupt), MetricLog(tmp_path, 10, loggers="mlflow"):
        raise KeyboardInterrupt
    assert client.get_run(run.info.run_id).info.status == "FAILED"


def test_trackio(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    write_and_continue(tmp_path, "trackio")
    (path,) = (tmp_path / "trackio").glob("psl_jax*.db")
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute("select step, metrics from metrics order by rowid").fetchall()
    lines = [(step, json.loads(values)) for step, values in rows]
    losses = {step: line["loss"] for step, line in lines if "loss" in line}
    assert losses == {step: 1 / step for step in range(1, 11)}


@pytest.mark.parametrize("fails_in", ["__init__", "write", "close"])
def test_a_service_that_is_down_ends_no_training(tmp_path, monkeypatch, capsys, fails_in):
    class Service:
        def __init__(self, run): ...
        def write(self, step, values): ...
        def close(self, *, failed): ...

    def fail(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(Service, fails_in, fail)
    monkeypatch.setitem(loggers.LOGGERS, "mlflow", Service)
    with MetricLog(tmp_path, loggers="mlflow,tensorboard") as log:
        write_steps(log, range(1, 4))
    assert capsys.readouterr().err.count("mlflow logs no more of this run") == 1
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3]


def test_an_unknown_logger_is_refused():
    with pytest.raises(UserError, match=r"train\.loggers .*'comet' is none of tensorboard, wandb"):
        check_loggers("tensorboard,comet")
