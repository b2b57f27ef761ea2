"""Opens a page on which a person decides which classes sound in segments of a data set.

    psl-jax review runs/psl2s DATA --split=balanced       # then open http://127.0.0.1:8000
    psl-jax review runs/psl2s DATA --example=tags/owl.embeddings.npz --label=Owl

The segments where a decision helps most come first: where the score is near the class's threshold,
where the run and the labels that it was trained on are at odds, and where classes are rare. A share
is drawn at random. With --example the segments come first whose embeddings are nearest to that
sound's: a way to find the first labels of a class.

Each answer is stored at once as a line of a table, and the same command goes on where it was.
config.corrections of psl-jax main takes the table. The page needs more packages:
pip install -e '.[serve]' in your clone of the repository.
"""

import argparse
import contextlib
import pathlib
from collections.abc import Sequence

import numpy as np

from psl_jax.audio.segments import Segmentation
from psl_jax.commands import serve
from psl_jax.data import label_manifest
from psl_jax.data.decision_table import DecisionTable
from psl_jax.data.segment_loader import Segments
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import Source, open_folder
from psl_jax.networks.class_lists import find_class, near_names
from psl_jax.networks.trained_model import DEFAULT_THRESHOLD, Model
from psl_jax.runtime import cli_entry, distributed, files, run_files
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.scoring import segment_choice
from psl_jax.scoring.segment_choice import ChosenSegment
from psl_jax.tagging import tagging_cli
from psl_jax.weights.load_model import load_model


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    parser = tagging_cli.make_parser("review", __doc__ or "")
    add = parser.add_argument
    add("data", metavar="DATA", help=cli_entry.DATA_HELP)
    add("--split", default="balanced", help="split whose segments are shown (default: balanced)")
    add(
        "--segment_seconds",
        type=cli_entry.make_number_reader("segment_seconds", float, least=0.1, most=3600),
        metavar="S",
        help="length of the segments to judge, in seconds (default: as in the model's training)",
    )
    add(
        "--random_share",
        type=cli_entry.make_number_reader("random_share", float, least=0, most=1),
        default=0.2,
        metavar="P",
        help="share of segments, 0 to 1, shown at random; only they give an unbiased estimate of "
        "how many labels are right (default: 0.2)",
    )
    add(
        "--example",
        metavar="FILE",
        help="embeddings of a sound (NAME.embeddings.npz of psl-jax tag --embeddings): segments "
        "that resemble it come first; needs --label (default: the most useful first)",
    )
    add("--label", metavar="CLASS", help="class of the --example sound (required with --example)")
    add(
        "--out",
        default=serve.TABLE,
        metavar="FILE",
        help=f"CSV of decisions; new ones are appended (default: {serve.TABLE})",
    )
    serve.add_server_settings(parser)
    parsed = parser.parse_intermixed_args(arguments[1:])
    if bool(parsed.example) != bool(parsed.label):
        parser.error("--example and --label go together")
    return parsed


def main(arguments: argparse.Namespace) -> None:
    """Scores the segments, and serves the page until interrupted."""
    try:
        from psl_jax.web import access, review
    except ImportError as error:
        raise MissingPackageError("the web page", f"{error.name}", "serve") from error
    with contextlib.closing(serve.listen(arguments.host, arguments.port)) as listener:
        table = DecisionTable(arguments.out, arguments.who)
        distributed.configure()
        model = load_model(arguments.model)
        source = open_folder(arguments.data, arguments.split, run=arguments.model)
        labels = _open_labels(arguments, source)
        seconds = arguments.segment_seconds or model.info.segment_seconds
        segments = Segments(source, labels.segmentation if labels else Segmentation(seconds))
        chosen = _choose(arguments, model, segments, labels)
        local = serve.is_local(listener)
        allowed = access.Access(local, listener.getsockname()[0], arguments.token)
        page = review.Review(segments, chosen, table, name=model.info.name)
        serve.run_server(review.make_review(page, allowed), listener, arguments.token)


def _open_labels(arguments: argparse.Namespace, source: Source) -> SoftLabels | None:
    """Opens the soft labels of the run, where they are of this split and length."""
    run = pathlib.Path(arguments.model)
    config = run_files.read_config(run)
    folder = config.get("soft_labels_dir") or run / "soft_labels"
    if not config or not label_manifest.are_begun(folder):
        return None
    segmentation = label_manifest.segmentation_of(folder)
    if arguments.segment_seconds in (None, segmentation.seconds):
        with contextlib.suppress(UserError):
            return SoftLabels.open(folder, source.index, segmentation)
    print(f"{folder} holds labels of other segments or data: the scores of the run stand for them")
    return None


def _choose(
    arguments: argparse.Namespace, model: Model, segments: Segments, labels: SoftLabels | None
) -> Sequence[ChosenSegment]:
    """Chooses the segments in their order, and the classes to ask for."""
    classes = segments.source.index.classes
    numbers = segment_choice.draw_candidates(len(segments))
    if len(numbers) < len(segments):
        print(f"{len(numbers):,} of {len(segments):,} segments, drawn at random, are scored")
    if arguments.example:
        label = find_class(arguments.label, classes)
        if label is None:
            raise UserError(
                f"--label={arguments.label}: the data have no such class"
                f"{near_names(arguments.label, classes)}. Add it to classes.csv beside the tables, "
                "and prepare the data again"
            )
        embeddings = segment_choice.score_segments(model, segments, numbers, "embeddings")
        example = _read_example(arguments.example, embeddings.shape[1])
        return segment_choice.choose_similar(numbers, embeddings, example, label)
    is_in_model = np.isin(classes, model.classes)
    if not is_in_model.all():
        name = classes[int(np.argmin(is_in_model))]
        print(f"{model.info.name} lacks {(~is_in_model).sum()} of the classes, such as {name!r}")
    common_classes = [name for name in classes if name in model.classes]
    model = model.for_classes(common_classes or classes)  # raises where it has none of them
    scores = np.zeros((len(numbers), len(classes)), np.float32)
    scores[:, is_in_model] = segment_choice.score_segments(model, segments, numbers)
    thresholds = np.full(len(classes), DEFAULT_THRESHOLD)
    thresholds[is_in_model] = model.thresholds.values
    return segment_choice.choose_useful(
        numbers,
        scores,
        labels.of_segments(*segments.places(numbers)) if labels else scores,
        thresholds=thresholds,
        random_share=arguments.random_share,
    )


def _read_example(path: str, num_channels: int) -> np.ndarray:
    """Reads the embedding [channels] of a sound. Raises UserError."""
    expected = (
        "expected a file that psl-jax tag RUN SOUND --embeddings --out=DIR wrote with this run"
    )
    try:
        with open(path, "rb") as file, np.load(file) as stored:
            embedding: np.ndarray = stored["embedding"]
    except (OSError, *files.NPZ_ERRORS) as error:
        raise UserError(f"--example={path}: {error}; {expected}") from error
    if embedding.shape != (num_channels,):
        raise UserError(
            f"--example={path}: its embedding has {embedding.size} values, the run's have "
            f"{num_channels}; {expected}"
        )
    return embedding
