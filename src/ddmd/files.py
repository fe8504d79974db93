"""Writes that a kill cannot tear and a full disk names in one line; reads of text that do not depend on the locale."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError, unwritable
from .folders import LOCK, MANIFEST, beside, check_replaceable, is_bare, locked, remove_leftovers, sync, try_lock, write_manifest

CLAIM = ".ddmd-claim"
MAGIC = (  # files that are often taken for UTF-8 text: first bytes, what they are, the mend
    (b"\xff\xfe", "UTF-16 text", "save the file as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "save the file as UTF-8"),
    (b"\x1f\x8b", "a file compressed by gzip", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a file compressed by zstd", "unpack it first"),
    (b"PK\x03\x04", "a ZIP archive or an office document", "save its text as UTF-8"),
    (b"PAR1", "a Parquet table", "name the file .parquet"),
)


def write_atomic(path: Path | str, content: str | bytes) -> Path:
    """Write a whole file so that a reader sees the old content or the new, never a part.

    Raises InputError naming the file where it cannot be written (full disk, no permission, a folder of that name).
    """
    path = Path(path)
    temporary = beside(path, "tmp")
    with unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as handle:
                try_lock(handle)
                handle.write(content.encode() if isinstance(content, str) else content)
                handle.flush()
                os.fsync(handle.fileno())
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)
    return path


def write_json(path: Path | str, value: Any) -> Path:
    """Write JSON atomically, indented, keys in the order given; numbers that are not finite become null."""
    return write_atomic(path, json_text(value, indent=1) + "\n")


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that any parser reads: numbers that are not finite, which it has no words for, become null."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


@contextmanager
def folder_atomic(path: Path | str, ours: bool = False) -> Iterator[Path]:
    """Fill a temporary folder, then put it at `path` with a manifest of checksums.

    What is at `path` must be as an earlier call left it (or `ours`, a name that nobody else writes to): see `check_replaceable`. It is
    exchanged by two renames; a kill between them is mended by the next call. An empty folder is filled where it is.
    Raises InputError where it cannot be written. Modes follow the umask, of safetensors files too.
    """
    path = Path(path).resolve()
    if not ours:
        check_replaceable(path)
    with unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        within = path.is_dir() and (is_bare(path) or path.is_mount() or path.samefile(Path.cwd()))
        temporary = beside(path / "files" if within else path, "tmp")
        temporary.mkdir()
        try:
            with locked(temporary):
                yield temporary
                _publish(temporary)
                (_fill if within else _exchange)(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _publish(folder: Path) -> None:
    """Modes that follow the umask (safetensors and copies have others), the manifest, and all of it on the disk."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    for file in folder.rglob("*"):
        if file.is_dir():
            file.chmod(mode)
        elif file.suffix == ".safetensors":
            file.chmod(mode & 0o666)
    write_manifest(folder)
    for file in [*folder.rglob("*"), folder]:
        sync(file)


def _exchange(temporary: Path, path: Path) -> None:
    old = beside(path, "old")
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(temporary, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _fill(temporary: Path, path: Path) -> None:
    """Move a folder's entries into an existing one; an earlier call's go, the manifest first, and the new one comes last."""
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name != MANIFEST):
        if entry != temporary and entry.name != LOCK:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for entry in sorted(temporary.iterdir(), key=lambda entry: entry.name == MANIFEST):
        os.replace(entry, path / entry.name)
    sync(path)


def claim(folder: Path | str, names: Sequence[str]) -> Path:
    """Make a folder in which files of these names (patterns) are a command's to write, beside what others keep there.

    Raises InputError where such a file is there that no command claimed before, or where nothing can be written.
    """
    folder, mark = Path(folder), Path(folder) / CLAIM
    with unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        known = mark.read_text(encoding="utf-8").split("\n") if mark.is_file() else []
        for name in names:
            if name not in known and (found := sorted(folder.glob(name))):
                raise InputError(str(found[0]), "a file that ddmd did not write", "move it elsewhere, or give another --out")
    remove_leftovers(folder)
    write_atomic(mark, "\n".join([*known, *(name for name in names if name not in known)]))
    return folder


def read_bytes(path: Path | str) -> bytes:
    """A whole file's bytes. Raises InputError where it is missing, not a plain file, or unreadable."""
    try:
        mode = os.stat(path).st_mode  # asked first: opening a pipe waits for a writer
        if stat.S_ISDIR(mode):
            raise InputError(str(path), "a folder", "name a file in it")
        if not stat.S_ISREG(mode):
            raise InputError(str(path), "a pipe or a device", "save its content to a file")
        with open(path, "rb") as handle:
            return handle.read()
    except FileNotFoundError as error:
        raise InputError(str(path), "no such file", "check its name and folder") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(str(path), f"a file that cannot be read ({reason})", _mend(error)) from error
    except ValueError as error:  # a NUL or half a surrogate pair in the name
        raise InputError(ascii(str(path)), "a name that no file can have", "check it") from error


def _mend(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "give yourself the right to read it, and to enter its folder"
    return "check its name and its disk"


def decode_text(content: bytes, where: str) -> str:
    """Text of UTF-8 whatever the locale, without a byte order mark; line ends as they are.

    Raises InputError, under the name `where`, for what is no such text, naming what it seems to be.
    """
    for magic, kind, mend in MAGIC:
        if content.startswith(magic):
            raise InputError(where, kind, mend)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"a byte that is not UTF-8 in line {line}"
        raise InputError(where, found, "save the file as UTF-8 text") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(where, f"a NUL character in line {line}", "save the file as UTF-8 text")
    return text


def read_text(path: Path | str) -> str:
    """A file's text, by `read_bytes` and `decode_text`."""
    return decode_text(read_bytes(path), str(path))


def split_lines(text: str) -> list[str]:
    """Lines, ended by a newline alone (with or without a carriage return before it).

    `str.splitlines` would also cut at U+2028, U+0085 and others, which occur within captions.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


def read_lines(path: Path | str) -> list[str]:
    """A text file's lines, by `read_text` and `split_lines`."""
    return split_lines(read_text(path))


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of JSON text. Raises InputError, under the name `where`, for anything else."""
    try:
        value = json.loads(text)
        if "\\u" in text if isinstance(text, str) else b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except UnicodeError as error:
        raise InputError(where, "half a surrogate pair", "save it again as UTF-8") from error
    except RecursionError as error:
        raise InputError(where, "JSON nested too deeply", "check where the file comes from") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        found = f"what is not JSON at {place}" if text.strip() else "no JSON"
        raise InputError(where, found, "write it again, or fetch the file again") from error
    except ValueError as error:
        raise InputError(where, "a number of too many digits", "check where it comes from") from error
    return value


def json_kind(value: Any) -> str:
    """What JSON calls a value, with its article."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value"}
    return "null" if value is None else names.get(type(value), "a number")


def read_json(path: Path | str) -> Any:
    """A JSON file's value. Raises InputError where it cannot be read or is damaged."""
    return parse_json(read_text(path), str(path))


def read_object(path: Path | str) -> dict[str, Any]:
    """A JSON file's object. Raises InputError as `read_json` does, and for any other value."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(str(path), f"{json_kind(found)}, not an object", "get it again")
    return found


def read_json_lines(path: Path | str) -> list[Any]:
    """A JSON value a line, blank lines skipped. Raises InputError naming a damaged line."""
    numbered = enumerate(read_lines(path), 1)
    return [parse_json(line, f"{path}:{number}") for number, line in numbered if line.strip()]
