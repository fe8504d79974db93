"""The votes: SQLite in WAL mode, one row an annotator and item, on disk before it is acknowledged."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from .plan import PRIVATE, Plan

NAME = "votes.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS votes (
    annotator TEXT NOT NULL, item TEXT NOT NULL, ranking TEXT NOT NULL, reason TEXT NOT NULL, seconds REAL NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (annotator, item)
) WITHOUT ROWID
"""
MEND = f"restore {NAME} from a copy, or move it away"


@dataclass(frozen=True)
class Vote:
    """One answer: places of an item's images (as in the plan), best first."""

    annotator: str
    item: str
    ranking: list[int]
    reason: str = ""
    seconds: float = 0.0


class Votes:
    """The votes of a study; safe for many threads. Answering an item again replaces the answer.

    Every method raises InputError naming the file where the database cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._lock = threading.Lock()
        with self._named():
            # SQLite gives its side files the mode of this one. It holds the annotators' links.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, PRIVATE))
            self._connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")  # an acknowledged vote survives the machine's fall, too
            self._connection.execute(SCHEMA)
            (state,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(state)

    def put(self, vote: Vote) -> None:
        """Keep a vote; returns when it is on disk."""
        row = (vote.annotator, vote.item, json.dumps(vote.ranking), vote.reason, vote.seconds, time.time())
        with self._lock, self._named():
            self._connection.execute("INSERT OR REPLACE INTO votes VALUES (?, ?, ?, ?, ?, ?)", row)

    def of(self, annotator: str) -> dict[str, Vote]:
        """An annotator's votes, by item."""
        return {vote.item: vote for vote in self._select("WHERE annotator = ?", annotator)}

    def all(self) -> list[Vote]:
        """Every vote, in the order of time."""
        return self._select("ORDER BY at")

    def check(self, plan: Plan) -> None:
        """Raise InputError naming a vote that no page of this plan can have sent."""
        sizes = {item.id: len(item.rows[0].images) for item in plan.items}
        numbers = plan.numbers()
        for vote in self.all():
            if vote.annotator not in numbers or vote.item not in plan.annotators[vote.annotator]:
                raise InputError(str(self.path), f"a vote that is not of this study (item {vote.item[:40]!r})", MEND)
            if sorted(vote.ranking) != list(range(sizes[vote.item])):
                found = f"a damaged vote by annotator {numbers[vote.annotator]} (item {vote.item}: {str(vote.ranking)[:40]})"
                raise InputError(str(self.path), found, MEND)

    def _select(self, clause: str, *values: str) -> list[Vote]:
        with self._lock, self._named():
            rows = self._connection.execute(f"SELECT annotator, item, ranking, reason, seconds FROM votes {clause}", values).fetchall()
        return [Vote(a, i, self._ranking(r), why, s) for a, i, r, why, s in rows]

    def _ranking(self, text: str) -> list[int]:
        try:
            found = json.loads(text)
            if isinstance(found, list) and all(type(i) is int for i in found):
                return found
        except (ValueError, TypeError, RecursionError):
            pass
        raise InputError(str(self.path), f"a damaged vote ({str(text)[:40]!r})", MEND)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise InputError(str(self.path), f"a database that cannot be used ({error})", f"make room, or {MEND}") from error

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
