"""The package as `pip install` leaves it: in an empty folder, without the repository."""

import os
import shutil
import subprocess
import sys

import programs
import pytest
from places import ROOT

import psl_jax
from psl_jax import UserError, cli, main

TINY = (
    *("--config.data.full_clips=8", "--config.data.balanced_clips=4"),
    *("--config.data.eval_clips=4", "--stage=prepare"),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that a wheel of the package was installed into."""
    root = tmp_path_factory.mktemp("wheel")
    sources = ("psl_jax", "configs", "pyproject.toml", "README.md", "LICENSE")
    for name in sources:  # building leaves files beside them
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    plain = ["--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *plain, "--wheel-dir", root / "out", root], check=True)
    (wheel,) = (root / "out").glob("*.whl")
    subprocess.run([*pip, "install", *plain, "--target", root / "site", wheel], check=True)
    return root / "site"


def run(installed, folder, *arguments):
    command = [sys.executable, "-P", *arguments]
    return programs.run(command, {"PYTHONPATH": os.fspath(installed)}, cwd=folder)


def package_files(folder):
    return {
        path.relative_to(folder).as_posix()
        for path in (folder / "psl_jax").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_whole_package_is_in_the_wheel(installed):
    """What lies in the repository is there: modules, templates, class lists, configs."""
    configs = {f"psl_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert package_files(installed) == package_files(ROOT) | configs


def test_a_config_by_name_in_an_empty_folder(installed, tmp_path):
    done = run(installed, tmp_path, "-m", "psl_jax", "main", "--config", "quickstart", *TINY)
    assert done.returncode == 0, done.stderr
    assert "full: 8 of 8 clips" in done.stdout and os.listdir(tmp_path) == ["runs"]


def test_the_script(installed, tmp_path):
    script = installed / "bin" / "psl-jax"
    version = run(installed, tmp_path, script, "--version")
    assert version.stdout == f"psl_jax {psl_jax.__version__}\n"
    overview = run(installed, tmp_path, script, "--help").stdout
    assert all(f"\n  {name} " in overview for name in cli.COMMANDS)
    unknown = run(installed, tmp_path, script, "prepair")
    assert unknown.returncode == 2 and "Did you mean prepare?" in unknown.stderr
    assert run(installed, tmp_path, script).returncode == 2
    assert run(installed, tmp_path, script, "prepare", "-h").stdout.startswith("usage: psl-jax pre")
    wrong = run(installed, tmp_path, script, "main", "--config=quikstart.py")
    assert wrong.returncode == 2 and "Did you mean quickstart?" in wrong.stderr


def test_configs_are_found_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weak.py").write_text("")
    (tmp_path / "weak").mkdir()
    assert main.find_config("weak.py") == "weak.py"
    for name in ("weak", "configs/weak.py"):
        assert main.find_config(name) == str(ROOT / "configs" / "weak.py")
    assert main.find_config("psl2s:code") == f"{ROOT / 'configs' / 'psl2s.py'}:code"
    with pytest.raises(UserError, match=r"no config elsewhere/weak\.py"):
        main.find_config("elsewhere/weak.py")
