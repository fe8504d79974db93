"""What a run writes as it goes: metrics.jsonl and tensorboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files import read_text, split_lines, write_atomic


class Logs:
    """metrics.jsonl and tensorboard; rows past the cycle that a resumed run starts from are dropped."""

    def __init__(self, folder: Path | None, cycle: int) -> None:
        self._file = self._board = None
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "metrics.jsonl"
        kept = [line for line in _lines(path) if json.loads(line)["cycle"] <= cycle and cycle > 0]
        write_atomic(path, "".join(line + "\n" for line in kept))
        self._file = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=cycle + 1 if cycle else None)

    def write(self, row: dict[str, Any]) -> None:
        """One object a log step."""
        if self._file is None or self._board is None:
            return
        self._file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name != "cycle":
                self._board.add_scalar(name, value, row["cycle"])

    def close(self) -> None:
        if self._file is not None and self._board is not None:
            self._file.close()
            self._board.close()


def _lines(path: Path) -> list[str]:
    """Whole lines of a jsonl file; a kill may have torn the last one."""
    text = read_text(path) if path.is_file() else ""
    return [line for line in split_lines(text[: text.rfind("\n") + 1]) if line]
