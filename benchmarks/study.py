"""The user study's server under load: 50 annotators at once, then 50 kills during voting.

    python benchmarks/study.py [--annotators 50] [--kills 50]

Prints the median and the 99th percentile of an answer in ms, and votes sent, acknowledged, lost and doubled. Loopback only.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image

from ddmd.measure.study.plan import Plan, Wish, new_study
from ddmd.measure.study.votes import Votes

MODELS, PROMPTS = 3, 40


def make(folder: Path, annotators: int) -> Plan:
    sources = {}
    for model in range(MODELS):
        place = folder / f"m{model}"
        place.mkdir(parents=True)
        for i in range(PROMPTS):
            Image.effect_noise((256, 256), 60).save(place / f"{i}.png")
        sources[f"model {model}"] = place
    (folder / "prompts.txt").write_text("".join(f"prompt {i}\n" for i in range(PROMPTS)))
    wish = Wish("ranking", annotators=annotators, judges=annotators)
    return new_study(folder / "study", sources, folder / "prompts.txt", wish, lambda done, total: None)


def start(study: Path) -> tuple[subprocess.Popen[bytes], int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "ddmd.cli", "study", "serve", str(study), "--port", str(port)], stdout=subprocess.DEVNULL
    )
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return server, port
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the server did not start")


def vote(connection: http.client.HTTPConnection, token: str, item: str, ranking: list[int]) -> float:
    began = time.perf_counter()
    body = json.dumps({"item": item, "ranking": ranking, "seconds": 1.0})
    connection.request("POST", f"/a/{token}/vote", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}")
    return time.perf_counter() - began


def load(study: Path, plan: Plan) -> None:
    """Every annotator answers every item, with half a second of thought between: faster than anybody is."""
    server, port = start(study)
    times: list[float] = []

    def annotate(token: str, hand: list[str], chance: random.Random) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        time.sleep(chance.random())
        for item in hand:
            times.append(vote(connection, token, item, chance.sample(range(MODELS), MODELS)))
            time.sleep(chance.uniform(0.25, 0.75))

    threads = [threading.Thread(target=annotate, args=(t, h, random.Random(t))) for t, h in plan.annotators.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.terminate()
    server.wait()
    kept, sent = len(Votes(study).all()), sum(map(len, plan.annotators.values()))
    ordered = sorted(times)
    print(f"{len(threads)} annotators, {sent} votes sent, {kept} kept, {sent - kept} lost")
    print(
        f"an answer: median {1000 * statistics.median(ordered):.1f} ms, 99th percentile {1000 * ordered[int(0.99 * len(ordered))]:.1f} ms"
    )


def kills(study: Path, plan: Plan, n: int) -> None:
    """kill -9 while four annotators vote without pause; every acknowledged vote must be there afterwards, once."""
    sure: dict[tuple[str, str], list[list[int]]] = {}
    acknowledged = 0
    for _ in range(n):
        server, port = start(study)
        stop = threading.Event()
        count = [0] * 4

        def annotate(k: int, port: int = port, stop: threading.Event = stop, count: list[int] = count) -> None:
            token, hand = list(plan.annotators.items())[k]
            chance = random.Random()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            while not stop.is_set():
                item, ranking = chance.choice(hand), chance.sample(range(MODELS), MODELS)
                try:
                    vote(connection, token, item, ranking)
                    sure[token, item] = [ranking]
                    count[k] += 1
                except (OSError, http.client.HTTPException):
                    sure.setdefault((token, item), []).append(ranking)  # may have been stored, or not
                    return

        threads = [threading.Thread(target=annotate, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3 + random.random() * 0.4)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        stop.set()
        for thread in threads:
            thread.join()
        acknowledged += sum(count)
    stored = {(v.annotator, v.item): v.ranking for v in Votes(study).all()}
    rows = sqlite3.connect(study / "votes.sqlite").execute("SELECT count(*) FROM votes").fetchone()[0]
    items = {item.id: item for item in plan.items}
    lost = 0
    for (token, item), rankings in sure.items():
        order = plan.shuffled(token, items[item])
        lost += stored.get((token, item)) not in [[order[i] for i in ranking] for ranking in rankings]
    print(f"{n} kills, {acknowledged} votes acknowledged; {lost} places wrong or lost of {len(sure)}; {rows - len(stored)} doubled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotators", type=int, default=50)
    parser.add_argument("--kills", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plan = make(Path(folder), options.annotators)
        load(Path(folder) / "study", plan)
        kills(Path(folder) / "study", plan, options.kills)


if __name__ == "__main__":
    main()
