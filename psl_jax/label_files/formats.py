"""The kinds of label files, by name."""

from psl_jax.label_files import frame_files, logit_arrays, tables, top_k_files
from psl_jax.label_files.blocks import Format

FORMATS = {
    "parquet": Format(
        "a table, a row for each segment",
        logits=False,
        suffix=".parquet",
        read=tables.ParquetTable,
        write=tables.write_parquet,
        files=lambda path, options: [path],
    ),
    "csv": Format(
        "the same as text",
        logits=False,
        suffix=".csv",
        read=tables.CsvTable,
        write=tables.write_csv,
        files=lambda path, options: [path],
    ),
    "npy": Format(
        "EfficientAT's: logits of clips, and an index of file names",
        logits=True,
        suffix=".npy",
        read=logit_arrays.LogitArray,
        write=logit_arrays.write,
        files=logit_arrays.used_files,
        used=("index",),
        written=("pool",),
    ),
    "ced": Format(
        "CED's: the highest 20 of each chunk, HDF5 and a table",
        logits=False,
        suffix=".h5",
        read=top_k_files.TopKFile,
        write=top_k_files.write,
        files=top_k_files.used_files,
        used=("index", "fill"),
        written=("top_k",),
    ),
    "pretrainedsed": Format(
        "PretrainedSED's: logits of frames of 40 ms, HDF5",
        logits=True,
        suffix=".hdf5",
        read=frame_files.FrameFile,
        write=frame_files.write,
        files=lambda path, options: [path],
        used=("pool",),
    ),
}
