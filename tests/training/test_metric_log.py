"""The training log survives interruptions."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from psl_jax.runtime.errors import UserError
from psl_jax.training.metric_log import LOG_NAME, MetricLog, read_log


def without_times(lines):
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def write_steps(log, steps):
    for step in steps:
        log.write(step, {"loss": 1.0 / step})
        if step % 5 == 0:
            log.write(step, {"val_mAP": step / 100})


def test_lines_are_flushed_and_read_back(tmp_path):
    log = MetricLog(tmp_path)
    log.write(1, {"loss": np.float32(0.5), "count": 3, "size": np.array(2)})
    log.write(2, {"loss": float("nan")})
    assert without_times(read_log(tmp_path)) == [
        {"step": 1, "loss": 0.5, "count": 3, "size": 2},
        {"step": 2, "loss": None},
    ]
    assert all(line["time"] > 1e9 for line in read_log(tmp_path))
    log.close()


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
    assert [p.name for p in path.parent.iterdir()].count(LOG_NAME) == 1
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


def test_no_log(tmp_path):
    assert read_log(tmp_path) == []


def test_inactive_writes_nothing(tmp_path):
    with MetricLog(tmp_path / "run", active=False) as log:
        log.write(1, {"loss": 1.0})
    assert not (tmp_path / "run").exists()


def test_reserved_names(tmp_path):
    with MetricLog(tmp_path) as log, pytest.raises(ValueError, match="'step'"):
        log.write(1, {"step": 2})


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
    assert [e.step for e in events if e.session_log.status == restart] == [5]


def test_pytorch_is_not_imported_and_can_be_later(tmp_path):
    pytest.importorskip("tensorboardX")
    (tmp_path / "torch.py").write_text("TENSOR = 1")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from psl_jax.training.metric_log import MetricLog\n"
        f"with MetricLog({str(tmp_path)!r}) as log: log.write(1, {{'loss': 1}})\n"
        "assert 'tensorboardX' in sys.modules and 'torch' not in sys.modules\n"
        "import torch; assert torch.TENSOR"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert list((tmp_path / "tb").iterdir())


def test_without_tensorboardx_and_without_tensorflow(tmp_path):
    program = (
        "import sys; sys.modules['tensorboardX'] = None\n"
        "from psl_jax.training.metric_log import MetricLog\n"
        f"with MetricLog({str(tmp_path)!r}) as log: log.write(1, {{'loss': 1}})\n"
        "assert not {'tensorflow', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert json.loads((tmp_path / LOG_NAME).read_text())["loss"] == 1
    assert not (tmp_path / "tb").exists()
