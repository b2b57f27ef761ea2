"""Whether a run, or what it was made of, is the same as another: bit for bit."""

import json
import pathlib

import numpy as np


class FaultError(Exception):
    """Something was lost, hung, or came out otherwise."""


def same(what: str, ours: object, theirs: object) -> None:
    if ours == theirs:
        return
    detail = ""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted({*ours, *theirs}, key=str)
        detail = str([key for key in keys if ours.get(key) != theirs.get(key)])
    raise FaultError(f"{what} differs from the undisturbed run {detail}")


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """Contents of all files below a folder, but for when a report was made."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (".lock", "report.txt"):
            content = path.read_bytes()
            if path.name == "report.json":
                content = json.dumps(json.loads(content) | {"made": ""}).encode()
            found[str(path.relative_to(folder))] = content
    return found


def losses(run: pathlib.Path) -> list[dict]:
    lines = map(json.loads, (run / "train_log.jsonl").read_text().splitlines())
    kept = ("step", "loss", "val_mAP")
    return [{key: line[key] for key in kept if key in line} for line in lines]


def arrays(run: pathlib.Path) -> list[np.ndarray]:
    with np.load(run / "scores.npz") as stored:
        return [stored[name] for name in sorted(stored.files)]
