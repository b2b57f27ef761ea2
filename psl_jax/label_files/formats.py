"""Lists the formats of label files by name."""

from psl_jax.label_files import (
    ced_format,
    efficientat_format,
    huggingface_folder,
    pretrainedsed_format,
    sat_format,
    table_formats,
)
from psl_jax.label_files.label_file import Format

FORMATS = {
    "parquet": Format(
        "a table, a row for each segment",
        logits=False,
        suffix=".parquet",
        read=table_formats.ParquetTable,
        write=table_formats.write_parquet,
        files=lambda path, options: [path],
    ),
    "csv": Format(
        "the same as text",
        logits=False,
        suffix=".csv",
        read=table_formats.CsvTable,
        write=table_formats.write_csv,
        files=lambda path, options: [path],
    ),
    "npy": Format(
        "EfficientAT's: logits of clips, and an index of file names",
        logits=True,
        suffix=".npy",
        read=efficientat_format.LogitArray,
        write=efficientat_format.write,
        files=efficientat_format.list_files,
        used=("index",),
        written=("pool",),
    ),
    "ced": Format(
        "CED's: the highest 20 of each chunk, HDF5 and a table",
        logits=False,
        suffix=".h5",
        read=ced_format.TopKFile,
        write=ced_format.write,
        files=ced_format.list_files,
        used=("index", "fill"),
        written=("top_k",),
    ),
    "pretrainedsed": Format(
        "PretrainedSED's: logits of frames of 40 ms, HDF5",
        logits=True,
        suffix=".hdf5",
        read=pretrainedsed_format.FrameFile,
        write=pretrainedsed_format.write,
        files=lambda path, options: [path],
        used=("pool",),
    ),
    "sat": Format(
        "SAT's: the ten most probable classes of each segment, Parquet",
        logits=False,
        suffix=".parquet",
        read=sat_format.TenBestTable,
        write=None,
        files=lambda path, options: [path],
    ),
    "hf": Format(
        "a folder for Hugging Face's datasets, with audio",
        logits=False,
        suffix=None,
        read=huggingface_folder.HuggingFaceFolder,
        write=huggingface_folder.write,
        files=huggingface_folder.list_files,
        written=("audio",),
    ),
}
