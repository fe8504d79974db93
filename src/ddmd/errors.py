"""The one error a user is meant to see."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def one_line(text: str) -> str:
    """Text as a terminal shows it safely in one line: line ends, control characters and half pairs by their escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class InputError(Exception):
    """Bad input: names the key or file, what was found, and the mend. The command line exits with 2 on it."""

    def __init__(self, key: str, found: str, mend: str) -> None:
        self.key, self.found, self.mend = key, found, mend
        super().__init__(one_line(f"{key}: found {found}; {mend}"))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        return type(self), (self.key, self.found, self.mend)


class UnwritableError(InputError, OSError):
    """A file or folder that cannot be written, for a reason that a user can mend."""


MENDS = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EFBIG: "write to a file system that takes larger files",
    errno.EACCES: "change its permissions, or use another place",
    errno.EPERM: "change its permissions, or use another place",
    errno.EROFS: "write elsewhere",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "a part of the path is a file: name another folder",
    errno.EEXIST: "a file has this name: name another folder",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EBUSY: "write elsewhere",
    errno.ELOOP: "mend the symbolic links",
}
OS_ERROR = re.compile(r"(?:\(os error |\[Errno )(\d+)")  # as Rust's libraries, safetensors among them, and shutil say it
TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.tmp\b")


def as_input_error(error: BaseException, path: Path | str | None = None) -> InputError | None:
    """What a user can mend about an error of the file system, in one line; None for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := OS_ERROR.search(str(error))):
        number = int(match[1])
    if number not in MENDS:
        return None
    named = str(getattr(error, "filename", None) or "")
    named = "" if TEMPORARY.search(named) else named
    return UnwritableError(named or str(path or "a file"), os.strerror(number).lower(), MENDS[number])


@contextmanager
def unwritable(path: Path | str) -> Iterator[None]:
    """Within it, a full disk or a missing permission is an InputError that names `path`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if (found := as_input_error(error, path)) is None:
            raise
        raise found from error
