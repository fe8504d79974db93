"""What a run writes as it goes: metrics.jsonl and tensorboard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import unwritable
from ..files import json_text, write_atomic


class Logs:
    """metrics.jsonl and tensorboard; rows past the cycle that a resumed run starts from are dropped."""

    def __init__(self, folder: Path | None, cycle: int, say: Callable[[str], None]) -> None:
        self._file = self._board = None
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._path = path = folder / "metrics.jsonl"
        rows = metric_rows(path, say) if cycle else []
        write_atomic(path, "".join(json_text(row) + "\n" for row in rows if row["cycle"] <= cycle))
        with unwritable(folder):
            self._file = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 (closed by close)
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=cycle + 1 if cycle else None)

    def write(self, row: dict[str, Any]) -> None:
        """One object a log step; numbers that are not finite are null."""
        if self._file is None or self._board is None:
            return
        with unwritable(self._path):
            self._file.write(json_text(row) + "\n")
            for name, value in row.items():
                if name != "cycle":
                    self._board.add_scalar(name, value, row["cycle"])

    def close(self) -> None:
        if self._file is not None and self._board is not None:
            with unwritable(self._path):
                self._file.close()
                self._board.close()


def metric_rows(path: Path, say: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; lines that are damaged are left out, and said. A kill may have torn the last one."""
    text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    rows, bad = [], []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            row = json.loads(line)
            rows.append({**row, "cycle": int(row["cycle"])})
        except (ValueError, TypeError, KeyError, RecursionError):
            bad.append(number)
    if bad:
        say(f"{path}: line {bad[0]} is damaged and dropped" + (f", and {len(bad) - 1} more" if bad[1:] else ""))
    return rows
