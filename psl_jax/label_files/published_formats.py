"""Reads the label files that other projects publish: SAT's, CED's, EfficientAT's, PretrainedSED's.

docs/LABELS.md describes them. SAT's are Parquet, with the numbers of some of AudioSet's classes and
their probabilities in each row: lists, or strings joined by ";". All other classes are 0. CED's are
HDF5, with the highest scores of each row; the lowest one is spread over the other classes, as CED's
training does. Its table has several rows for a clip: chunks, and augmented views of them, of which
a chunk has the mean. PretrainedSED's are HDF5 with logits [clips, classes, frames], of 40 ms each.
Frames past a clip's end do not count: files pad short clips. EfficientAT's are an array of logits
[clips, classes], and a pickle of the row of each file name, of which we run no code.
"""

import pathlib
import pickle
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.label_files import label_file
from psl_jax.label_files.label_file import Block, LabelFile, Options, ReadRequest
from psl_jax.label_files.table_formats import iterate_batches
from psl_jax.runtime import csv_files
from psl_jax.runtime.errors import UserError

_TIMES = ("filename", "start", "end")
_SAT_COLUMNS = (*_TIMES, "idxs", "prob")
FRAME_SECONDS = 0.04  # of PretrainedSED
_BLOCK_CLIPS = 16  # of 447 x 250: 7 MB

# --- SAT and CED: the highest scores of each row alone --------------------------------------------


def open_sat(path: pathlib.Path, options: Options) -> LabelFile:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    header = file.schema_arrow.names
    if missing := [name for name in _SAT_COLUMNS if name not in header]:
        raise UserError(
            f"{path}: no column {', '.join(missing)}. Found {', '.join(header[:6])}; expected "
            f"{', '.join(_SAT_COLUMNS)}"
        )
    classes = label_file.name_classes(path, options)

    def read_blocks(request: ReadRequest) -> Iterator[Block]:
        for place, batch in iterate_batches(file, _SAT_COLUMNS):
            where = f"{path}, {place}"
            names = list(map(str, batch.column("filename").to_pylist()))
            lengths, indexes = _read_lists(batch.column("idxs"), np.int64)
            value_lengths, values = _read_lists(batch.column("prob"), np.float64)
            if (different := np.flatnonzero(lengths != value_lengths)).size:
                row = different[0]
                raise UserError(
                    f"{where}: a row of {names[row]} has {lengths[row]} idxs and "
                    f"{value_lengths[row]} prob, expected as many"
                )
            scores = _spread(
                np.repeat(np.arange(batch.num_rows), lengths),
                indexes,
                label_file.to_probabilities(values, options.logits, where),
                scores=np.zeros((batch.num_rows, len(classes)), np.float32),
                where=where,
            )
            onsets, offsets = (np.asarray(batch.column(name), np.float64) for name in _TIMES[1:])
            yield Block(names, scores, None, onsets, offsets)

    return LabelFile([path], classes, read_blocks)


def open_ced(path: pathlib.Path, options: Options) -> LabelFile:
    import h5py

    file = h5py.File(path, "r")
    all_values, all_indexes = file["topk_values"], file["topk_indexes"]
    if all_values.ndim != 2 or all_values.shape != all_indexes.shape:
        raise UserError(
            f"{path}: topk_values {list(all_values.shape)} and topk_indexes "
            f"{list(all_indexes.shape)}, expected both [rows, k]"
        )
    classes = label_file.name_classes(path, options)
    table_path = pathlib.Path(options.index or path.with_suffix(".parquet"))
    names, starts, ends = _read_row_table(table_path, len(all_values))

    def read_blocks(request: ReadRequest) -> Iterator[Block]:
        for first in range(0, len(names), label_file.BLOCK_ROWS):
            rows = slice(first, min(first + label_file.BLOCK_ROWS, len(names)))
            where = f"{path}, rows {first} to {rows.stop - 1}"
            values = label_file.to_probabilities(all_values[rows], options.logits, where)
            scores = _spread(
                np.arange(len(values))[:, None],
                all_indexes[rows].astype(np.int64),
                values,
                scores=_compute_filler(values, len(classes)),
                where=where,
            )
            block_names = list(map(str, names[rows].to_pylist()))
            yield Block(block_names, scores, None, starts[rows], ends[rows])

    return LabelFile([path, table_path], classes, read_blocks)


def _compute_filler(values: np.ndarray, num_classes: int) -> np.ndarray:
    """Computes the scores of left-out classes from the kept ones [n, k]: float32 [n, classes]."""
    k = values.shape[1]
    lowest = values.min(axis=1, keepdims=True) if k else np.zeros((len(values), 1), np.float32)
    filler = lowest / max(num_classes - k, 1)
    return np.broadcast_to(filler, (len(values), num_classes)).astype(np.float32)


def _spread(
    rows: np.ndarray, indexes: np.ndarray, values: np.ndarray, *, scores: np.ndarray, where: str
) -> np.ndarray:
    """Puts values into `scores` [rows, classes] at their rows and classes, and returns it.

    Raises UserError for a class that is not there, or twice in a row.
    """
    width = scores.shape[1]
    if (wrong := indexes[(indexes < 0) | (indexes >= width)]).size:
        raise UserError(
            f"{where}: class {wrong[0]} of {width}; give the list of its classes: "
            "--classes=FILE.csv"
        )
    if len(np.unique(rows * width + indexes)) < values.size:
        raise UserError(f"{where}: a row has a class twice")
    scores[rows, indexes] = values
    return scores


def _read_lists(column: Any, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Reads lists, or strings joined by ";": their lengths, and their numbers one after another."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.split_pattern(column, ";")
    if column.null_count:
        raise ValueError("idxs and prob: a row without any")
    numbers = column.flatten()
    if pa.types.is_string(numbers.type) or pa.types.is_large_string(numbers.type):
        numbers = pc.utf8_trim_whitespace(numbers)
    lengths = np.asarray(pc.list_value_length(column))
    return lengths, np.asarray(numbers.cast(pa.from_numpy_dtype(dtype)))


def _read_row_table(path: pathlib.Path, num_rows: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Reads the names, starts and ends of CED's rows.

    Names stay an array of pyarrow's, which takes a third of a list's memory.
    """
    import pyarrow as pa
    import pyarrow.parquet

    if not path.exists():
        raise UserError(
            f"{path}: there is no table of the rows; give it with --index=FILE (Parquet or CSV "
            f"with {', '.join(_TIMES)})"
        )
    with label_file.plain_errors(path):
        if path.suffix in (".csv", ".tsv"):
            rows = [row for _, row in csv_files.read_rows(path, _TIMES)]
            table = pa.table({name: [row[name].strip() for row in rows] for name in _TIMES})
        else:
            table = pyarrow.parquet.read_table(path, columns=list(_TIMES))
        starts, ends = (table.column(name).cast(pa.float64()).to_numpy() for name in _TIMES[1:])
    if len(starts) != num_rows:
        raise UserError(f"{path} has {len(starts)} rows, and the HDF5 file {num_rows}")
    return table.column("filename"), starts, ends


# --- EfficientAT: logits of clips -----------------------------------------------------------------


def open_efficientat(path: pathlib.Path, options: Options) -> LabelFile:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(values, np.ndarray):
        raise UserError(f"{path} is an archive (.npz), expected one array (.npy)")
    if values.ndim != 2 or values.dtype.kind != "f":
        raise UserError(
            f"{path} holds {values.dtype} {list(values.shape)}, expected floats [clips, classes]"
        )
    classes = label_file.name_classes(path, options, values.shape[1])
    index_path = pathlib.Path(options.index or path.with_suffix(".pkl"))
    rows_by_name = _read_index(index_path, len(values))

    def read_blocks(request: ReadRequest) -> Iterator[Block]:
        names = list(rows_by_name)
        for start in range(0, len(names), label_file.BLOCK_ROWS):
            block_names = names[start : start + label_file.BLOCK_ROWS]
            rows = [rows_by_name[name] for name in block_names]
            where = f"{path}, row {rows[0]} and more"
            probabilities = label_file.to_probabilities(values[rows], options.logits, where)
            yield Block(block_names, probabilities)

    return LabelFile([path, index_path], classes, read_blocks)


class _NoCode(pickle.Unpickler):
    """Reads numbers, texts and containers, and refuses a pickle that names code to run."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _read_index(path: pathlib.Path, num_rows: int) -> dict[str, int]:
    """Reads the row of each name. Raises UserError for another form, or rows that do not exist."""
    try:
        with open(path, "rb") as file:
            index = _NoCode(file).load()
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no index of file names; give it with --index=FILE (a pickle of "
            "{name: row})"
        ) from None
    except Exception as error:  # pickle promises no other: files of another kind raise anything
        raise UserError(f"{path} is no index of file names: {error}") from error
    if not isinstance(index, dict) or not all(
        isinstance(name, str) and type(row) is int and 0 <= row < num_rows
        for name, row in index.items()
    ):
        raise UserError(
            f"{path} is no index of file names: expected a row from 0 to {num_rows - 1} for each"
        )
    return dict(sorted(index.items(), key=lambda item: item[1]))


# --- PretrainedSED: logits of frames --------------------------------------------------------------


def open_pretrainedsed(path: pathlib.Path, options: Options) -> LabelFile:
    import h5py

    file = h5py.File(path, "r")
    all_logits, all_names = file["strong_logits"], file["filenames"]
    if all_logits.ndim != 3 or len(all_names) != len(all_logits):
        raise UserError(
            f"{path}: strong_logits {list(all_logits.shape)} and {len(all_names)} filenames, "
            "expected [clips, classes, frames] and as many names as clips"
        )
    classes = label_file.name_classes(path, options, all_logits.shape[1])
    # Of the frames, in samples.
    middles = (2 * np.arange(all_logits.shape[2]) + 1) * round(FRAME_SECONDS * SAMPLE_RATE) // 2
    segment_frames = _find_segment_frames(middles, options)
    if not all(map(len, segment_frames)):
        raise UserError(
            f"segments of {options.segmentation.seconds:g} s are shorter than the frames of "
            f"{path}, of {FRAME_SECONDS} s; give longer --segment_seconds"
        )

    def read_blocks(request: ReadRequest) -> Iterator[Block]:
        for first in range(0, len(all_names), _BLOCK_CLIPS):
            clips = slice(first, first + _BLOCK_CLIPS)
            names = [
                name.decode() if isinstance(name, bytes) else str(name) for name in all_names[clips]
            ]
            where = f"{path}, clips from {names[0]}"
            frames = label_file.to_probabilities(all_logits[clips], options.logits, where)
            lengths = request.num_samples(names)
            is_inside = middles < lengths[:, None]  # [clips, frames]
            pooled = []  # of each segment [clips, classes]
            for numbers in segment_frames:
                is_used = is_inside[:, None, numbers]
                # The first one counts in any case: a clip may be shorter than half a frame, and
                # nobody reads segments past its end.
                is_used[..., 0] = True
                pooled.append(frames[:, :, numbers].mean(axis=2, where=is_used))
            values = np.stack(pooled, axis=1)  # [clips, segments, classes]
            counts = options.segmentation.count_segments(lengths)
            rows, segments = np.nonzero(np.arange(len(segment_frames)) < counts[:, None])
            yield Block([names[row] for row in rows], values[rows, segments], segments)

    return LabelFile([path], classes, read_blocks)


def _find_segment_frames(middles: np.ndarray, options: Options) -> list[np.ndarray]:
    """Finds the frames of each segment that begins before the last frame ends."""
    segmentation = options.segmentation
    num_samples = round(len(middles) * FRAME_SECONDS * SAMPLE_RATE)
    starts = np.arange(int(segmentation.count_segments(num_samples))) * segmentation.hop_samples
    return [
        np.flatnonzero((middles >= start) & (middles < start + segmentation.segment_samples))
        for start in starts
    ]
