"""The votes: SQLite in WAL mode, one row an annotator and item, on disk before it is acknowledged."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError

SCHEMA = """
CREATE TABLE IF NOT EXISTS votes (
    annotator TEXT NOT NULL, item TEXT NOT NULL, ranking TEXT NOT NULL, reason TEXT NOT NULL, seconds REAL NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (annotator, item)
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Vote:
    """One answer: places of an item's images (as in the plan), best first."""

    annotator: str
    item: str
    ranking: list[int]
    reason: str = ""
    seconds: float = 0.0


class Votes:
    """The votes of a study; safe for many threads. Answering an item again replaces the answer."""

    def __init__(self, folder: Path) -> None:
        path = folder / "votes.sqlite"
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")  # an acknowledged vote survives the machine's fall, too
            self._connection.execute(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise InputError(str(path), f"a database that cannot be used ({error})", "restore it from a copy, or move it away") from error
        self._lock = threading.Lock()

    def put(self, vote: Vote) -> None:
        """Keep a vote; returns when it is on disk."""
        row = (vote.annotator, vote.item, json.dumps(vote.ranking), vote.reason, vote.seconds, time.time())
        with self._lock:
            self._connection.execute("INSERT OR REPLACE INTO votes VALUES (?, ?, ?, ?, ?, ?)", row)

    def of(self, annotator: str) -> dict[str, Vote]:
        """An annotator's votes, by item."""
        return {vote.item: vote for vote in self._select("WHERE annotator = ?", annotator)}

    def all(self) -> list[Vote]:
        """Every vote, in the order of time."""
        return self._select("ORDER BY at")

    def _select(self, clause: str, *values: str) -> list[Vote]:
        with self._lock:
            rows = self._connection.execute(f"SELECT annotator, item, ranking, reason, seconds FROM votes {clause}", values).fetchall()
        return [Vote(a, i, json.loads(r), why, s) for a, i, r, why, s in rows]

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
