"""Commands over prepared data run where only JAX is: TensorFlow cannot be imported."""

import json
import sys

import places
import programs
import small_experiments

SCRIPT = """
import runpy, sys

sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None  # importing them raises
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def test_prepared_data_are_relabeled_trained_on_and_evaluated(tmp_path):
    data = small_experiments.write_data(tmp_path / "data")
    model = str(small_experiments.save_model(tmp_path / "model"))
    on_data = [model, str(data), f"--split={small_experiments.SPLIT}", "--segment_seconds=0.5"]
    main = ["main", "--config=config.py", f"--workdir={tmp_path / 'run'}"]
    changes = {"data.data_dir": data, "teacher": model, "labels": "soft", "segment_seconds": 0.5}
    splits = ("train", "validation", "eval")
    changes |= {f"data.{name}_split": small_experiments.SPLIT for name in splits}
    changes |= {"train.max_steps": 2, "train.batch_size": 4, "model.width": 0.1}
    main += [f"--config.{name}={value}" for name, value in changes.items()]
    (tmp_path / "config.py").write_text("from psl_jax.config import base as get_config\n")
    commands = [
        ["relabel", *on_data, f"--out={tmp_path / 'labels'}"],
        ["evaluate", *on_data, f"--out={tmp_path / 'evaluated'}"],
        main,
    ]
    command = [sys.executable, "-c", SCRIPT, places.HELPERS / "small_commands.py"]
    where = {"PYTHONPATH": f"{places.ROOT}:{places.HELPERS}"}
    done = programs.run([*command, json.dumps(commands)], where, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "evaluated/metrics.json").exists()
    assert (tmp_path / "run/metrics.json").exists()
