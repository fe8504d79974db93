"""One column of text from Parquet files and saved datasets; damaged ones are refused, whatever their bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_bytes, read_object

Choose = Callable[[Sequence[str]], str]
"""Names of the columns -> that of the prompts."""


def parquet_texts(path: Path, choose: Choose) -> list[Any]:
    """A Parquet file's texts, None where there is none. Raises InputError for a damaged one."""
    from pyarrow import ArrowException, parquet

    try:
        file = parquet.ParquetFile(path, memory_map=False)
        column = choose(file.schema_arrow.names)
        return _texts(path, file.read(columns=[column], use_threads=False), column)
    except (ArrowException, OSError, ValueError, MemoryError) as error:
        raise InputError(str(path), "not a Parquet file, or a damaged one", "save the table again") from error


def dataset_texts(path: Path, choose: Choose) -> list[Any]:
    """The texts of what `Dataset.save_to_disk` wrote: Arrow streams named by state.json."""
    import pyarrow

    mend = "save it by Dataset.save_to_disk"
    if (path / "dataset_dict.json").is_file():
        raise InputError(str(path), "a dataset of several splits", "give the folder of one of them")
    if not (path / "state.json").is_file():
        raise InputError(str(path), "not a dataset saved to disk (no state.json)", mend)
    entries = read_object(path / "state.json").get("_data_files")
    listed = entries if isinstance(entries, list) else []
    names: list[Any] = [entry.get("filename") if isinstance(entry, dict) else None for entry in listed]
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(str(path / "state.json"), "no _data_files", mend)
    texts: list[Any] = []
    for name in names:
        try:
            # Whole in memory: a map of a damaged file reads past its end.
            table = pyarrow.ipc.open_stream(pyarrow.py_buffer(read_bytes(path / name))).read_all()
            table.validate(full=True)
            texts += _texts(path, table, choose(table.column_names))
        except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
            raise InputError(str(path / name), "a damaged Arrow file", "save the dataset again") from error
    return texts


def _texts(path: Path, table: Any, column: str) -> list[Any]:
    from pyarrow import types

    table.validate(full=True)
    values = table.column(column)
    kind = values.type.value_type if types.is_dictionary(values.type) else values.type
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind) or str(kind) == "string_view"):
        raise InputError(str(path), f"the column {column} of {str(values.type)[:60]}", "give a column of text")
    return values.to_pylist()
