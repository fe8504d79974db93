"""The one error a user is meant to see."""

from __future__ import annotations


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
