"""Published PyTorch checkpoints in and out.

    python -m psl_jax.torch_weights IN.pt OUT               # OUT: a model like a run's `averaged`
    python -m psl_jax.torch_weights IN.pt OUT --classes=CLASSES.csv       # other than 527 classes
    python -m psl_jax.torch_weights --to_torch RUN OUT.pt   # a state dict for the published network

Tensors of a checkpoint that the network does not use (`front_end.` buffers, batch counters) are
kept beside the model, so that the way back restores them too.
"""

import argparse
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from psl_jax.model import model
from psl_jax.model.class_lists import read_classes
from psl_jax.runtime import cli_entry, files
from psl_jax.runtime.errors import UserError
from psl_jax.weights import load, orbax_folder, pytorch_file

EXTRAS = "torch_extras.npz"


def import_checkpoint(
    source: str | os.PathLike, folder: str | os.PathLike, classes_csv: str | None = None
) -> model.Model:
    """Writes the model of a published checkpoint into `folder`, and returns it.

    Raises UserError for a file that does not fit, and for a folder that holds something else.
    """
    folder = pathlib.Path(folder)
    _refuse_foreign(folder)
    classes = read_classes(classes_csv)[0] if classes_csv else None
    state = pytorch_file.read(source)
    model = pytorch_file.model_of(state, source, classes)
    orbax_folder.save_model(folder, model.variables, model.info.as_json())
    extras: dict[str, Any] = {n: array for n, array in state.items() if pytorch_file.is_extra(n)}
    with files.atomic_open(folder / EXTRAS, "wb") as file:
        np.savez(file, **extras)
    return model


def export_checkpoint(source: str | os.PathLike, path: str | os.PathLike) -> None:
    """Writes the state dict of a model: of a run folder, its `averaged` folder or an import."""
    model = load.load_model(source)
    pytorch_file.write(path, pytorch_file.to_state(model.variables, _extras(source)))


def _extras(source: str | os.PathLike) -> Mapping[str, np.ndarray] | None:
    """The unused tensors of an imported checkpoint; None where it was not imported."""
    path = pathlib.Path(source) / EXTRAS
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            return dict(content)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged; import the checkpoint again: {error}") from error


def _refuse_foreign(folder: pathlib.Path) -> None:
    """Saving a model replaces the folder: only one that held a model, or nothing."""
    if folder.is_file():
        raise UserError(f"{folder} is a file; give the folder to write the model into")
    model = (folder / orbax_folder.MODEL_FILE).exists()
    if folder.exists() and any(folder.iterdir()) and not model:
        raise UserError(f"{folder} is not empty and holds no model; give another folder")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=cli_entry.program("torch_weights"),
        description=about,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="FROM", help="checkpoint, or with --to_torch a model")
    parser.add_argument("target", metavar="TO", help="folder, or with --to_torch a .pt file")
    parser.add_argument("--to_torch", action="store_true", help="write a state dict from a model")
    parser.add_argument("--classes", metavar="CSV", help="index,mid,display_name or only label")
    flags.FLAGS(arguments[:1])  # absl's own, which nobody gives here, count as read
    return parser.parse_args(arguments[1:])


def main(arguments: argparse.Namespace) -> None:
    source, target = arguments.source, arguments.target
    if arguments.to_torch:
        export_checkpoint(source, target)
        print(f"wrote {target}: a state dict that the published network loads strictly")
        return
    model = import_checkpoint(source, target, arguments.classes)
    print(
        f"imported {source}: width {model.info.width:g}, {len(model.classes)} classes, digest "
        f"{model.digest}\nwrote {target}; use it as a teacher with --config.teacher={target}"
    )


if __name__ == "__main__":
    cli_entry.run(main, parse)
