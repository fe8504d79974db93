"""What the server gives away, what it refuses, and that it loses nothing."""

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

pytest.importorskip("starlette")
pytest.importorskip("choix")

from starlette.testclient import TestClient

from ddmd.errors import InputError
from ddmd.measure.study.plan import Key, Plan, Wish, new_study
from ddmd.measure.study.report import find, read_study
from ddmd.measure.study.server import make_app
from ddmd.measure.study.votes import Vote, Votes

from .conftest import COLOURS, PROMPTS


@pytest.fixture
def study(tmp_path, sources):
    images, prompts = sources
    new_study(tmp_path / "study", images, prompts, Wish("ranking", annotators=2, judges=2), lambda done, total: None)
    return tmp_path / "study"


@pytest.fixture
def client(study):
    return TestClient(make_app(study))


@pytest.fixture
def token(study):
    return next(iter(Plan.load(study).annotators))


def test_nothing_that_is_served_names_a_model(study, client, token):
    answers = [client.get(f"/a/{token}/{path}") for path in ("", "app.js", "zoom.js", "style.css", "state")]
    for place in range(len(PROMPTS)):
        item = client.get(f"/a/{token}/item/{place}")
        answers.append(item)
        answers += [client.get(f"/a/{token}/{url}") for url in item.json()["rows"][0]["images"]]
    assert all(answer.status_code == 200 for answer in answers)
    for answer in answers:
        told = answer.content + str(answer.headers).encode() + str(answer.url).encode()
        assert not any(model.encode() in told for model in COLOURS), answer.url
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert Plan.load(study).salt.encode() not in told
        assert not answer.headers.keys() & {"etag", "last-modified", "date", "server"}


def test_the_old_formula_does_not_undo_the_order(study, client):
    """Orders were once drawn from the seed, the link and the item, all of which an annotator has."""
    plan, key = Plan.load(study), Key.load(study)
    shown, undone = [], []
    for n in range(40):
        token = f"link {n}"
        for item in plan.items:
            order = list(range(3))
            random.Random(f"{plan.seed} {token} {item.id}").shuffle(order)
            shown.append([key.items[item.id][i] for i in plan.shuffled(token, item)])
            undone.append([key.items[item.id][i] for i in order])
    right = sum(a == b for a, b in zip(shown, undone))
    assert right < 80  # of 160; chance is one of six, and 80 are eight standard deviations away


def test_an_unknown_link_says_so_to_its_reader(client):
    answer = client.get("/a/wrong/")
    assert answer.headers["content-type"].startswith("text/html") and "link is not known" in answer.text


@pytest.mark.parametrize("path", ["", "state", "item/0", "app.js", "image/x.png", "vote"])
def test_wrong_and_missing_tokens_are_404(client, path):
    for token in ("", "wrong", "..", "%2e%2e"):
        assert client.get(f"/a/{token}/{path}").status_code in (404, 405)
    assert client.post("/a/wrong/vote", json={}).status_code == 404
    assert client.get("/").status_code == client.get("/plan.json").status_code == 404


def test_only_an_annotators_own_images_are_served(study, client, token):
    for name in ("../key.json", "..%2fkey.json", "%2e%2e%2fkey.json", "key.json", "0" * 32 + ".png", "../votes.sqlite"):
        assert client.get(f"/a/{token}/image/{name}").status_code == 404
    for path in ("key.json", "plan.json", "page.html", "../server.py", "item/99", "item/-1"):
        assert client.get(f"/a/{token}/{path}").status_code == 404


def test_votes_are_kept_replaced_and_given_back(study, client, token):
    first = client.get(f"/a/{token}/item/0").json()
    assert first["answer"] is None
    after = client.post(f"/a/{token}/vote", json={"item": first["item"], "ranking": [2, 0, 1], "reason": " sharp ", "seconds": 3})
    assert after.json() | {"total": 4} == {"kind": "ranking", "reason": False, "total": 4, "done": 1, "place": 1}
    assert client.get(f"/a/{token}/item/0").json()["answer"] == {"ranking": [2, 0, 1], "reason": "sharp"}
    client.post(f"/a/{token}/vote", json={"item": first["item"], "ranking": [1, 0, 2]})
    (vote,) = Votes(study).all()
    plan = Plan.load(study)
    item = next(item for item in plan.items if item.id == first["item"])
    assert [first["rows"][0]["images"][i] for i in (1, 0, 2)] == [f"image/{item.rows[0].images[i]}" for i in vote.ranking]
    _, rankings, _, _ = read_study(study)
    key = Key.load(study)
    assert rankings[0].models == tuple(key.items[item.id][i] for i in vote.ranking)


@pytest.mark.parametrize(
    "change",
    [
        {"ranking": [0, 1]}, {"ranking": [0, 1, 1]}, {"ranking": [0, 1, True]}, {"ranking": "012"}, {"ranking": [0.0, 1, 2]},
        {"item": "other"}, {"item": None}, {"item": []}, {"reason": 5}, {"reason": "x" * 2001}, {"seconds": -1}, {"seconds": "1"},
    ],
)  # fmt: skip
def test_broken_votes_are_refused_and_not_kept(study, client, token, change):
    item = client.get(f"/a/{token}/item/0").json()["item"]
    answer = client.post(f"/a/{token}/vote", json={"item": item, "ranking": [0, 1, 2], **change})
    assert answer.status_code == 400 and "error" in answer.json()
    assert Votes(study).all() == []


def test_bodies_are_limited_and_must_be_json(study, client, token):
    assert client.post(f"/a/{token}/vote", content=b"x" * 20_000).status_code == 413
    for body in (b"", b"{", b"[]", b"\xff", b"[" * 10_000):
        assert client.post(f"/a/{token}/vote", content=body).status_code == 400


def test_a_reason_is_asked_for_side_by_side(tmp_path, sources):
    images, prompts = sources
    new_study(tmp_path / "s", images, prompts, Wish("sidebyside", n=2, annotators=1), lambda done, total: None)
    client, (token,) = TestClient(make_app(tmp_path / "s")), Plan.load(tmp_path / "s").annotators
    item = client.get(f"/a/{token}/item/0").json()
    assert len(item["rows"]) == 2
    vote = {"item": item["item"], "ranking": [1, 0], "reason": "  "}
    assert client.post(f"/a/{token}/vote", json=vote).status_code == 400
    assert client.post(f"/a/{token}/vote", json=vote | {"reason": "sharper"}).status_code == 200
    kind, rankings, _, _ = read_study(tmp_path / "s")
    assert find(kind, rankings).reasons == {rankings[0].models[0]: ["sharper"]}


def test_a_damaged_database_is_named(study):
    (study / "votes.sqlite").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(InputError, match="votes.sqlite"):
        Votes(study)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("'stranger', 'item', '[0, 1, 2]'", "not of this study"),
        ("'{token}', 'elsewhere', '[0, 1, 2]'", "not of this study"),
        ("'{token}', '{item}', '[0, 1, 3]'", r"annotator 1 \(item"),
        ("'{token}', '{item}', '[0, 1]'", r"annotator 1 \(item"),
        ("'{token}', '{item}', 'oops'", "a damaged vote"),
        ("'{token}', '{item}', '{{}}'", "a damaged vote"),
        ("'{token}', '{item}', x'00ff'", "a damaged vote"),
    ],
)
def test_damaged_votes_are_named_by_server_and_report(study, token, values, said):
    Votes(study).close()
    item = Plan.load(study).annotators[token][0]
    with sqlite3.connect(study / "votes.sqlite") as connection:
        connection.execute(f"INSERT INTO votes VALUES ({values.format(token=token, item=item)}, '', 0, 0)")
    for use in (make_app, read_study):
        with pytest.raises(InputError, match=said) as error:
            use(study)
        assert token not in str(error.value)


def test_torn_databases_are_named(study, token):
    votes = Votes(study)
    for item in Plan.load(study).annotators[token]:
        votes.put(Vote(token, item, [0, 1, 2], "because " * 200))
    votes.close()
    whole = (study / "votes.sqlite").read_bytes()
    assert len(whole) > 8192
    for torn in (whole[: len(whole) // 2], whole[:4096] + bytes(4096) + whole[8192:]):
        (study / "votes.sqlite").write_bytes(torn)
        with pytest.raises(InputError, match=r"votes\.sqlite"):
            read_study(study)


def test_votes_hold_links_and_are_their_owners_alone(study):
    before = os.umask(0)
    try:
        votes = Votes(study)
        votes.put(Vote("a", "i", [0, 1]))
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in study.glob("votes.sqlite*")}
    assert modes == dict.fromkeys(("votes.sqlite", "votes.sqlite-wal", "votes.sqlite-shm"), 0o600)


def test_a_full_disk_is_told_and_nothing_is_acknowledged(study, token, monkeypatch, caplog):
    votes = Votes(study)
    votes._connection.execute("PRAGMA max_page_count=1")
    with pytest.raises(InputError, match="full") as full:
        votes.put(Vote("a", "i", [0, 1], "x" * 9000))
    client = TestClient(make_app(study))
    item = client.get(f"/a/{token}/item/0").json()["item"]

    def refuse(self, vote):
        raise full.value

    monkeypatch.setattr(Votes, "put", refuse)
    answer = client.post(f"/a/{token}/vote", json={"item": item, "ranking": [0, 1, 2]})
    assert answer.status_code == 503 and "keep answers" in answer.json()["error"]
    assert "full" in caplog.text and "Traceback" not in caplog.text
    assert client.get(f"/a/{token}/state").json()["done"] == 0


def test_a_study_without_a_salt_is_not_served_but_reported(study, token):
    item = Plan.load(study).annotators[token][0]
    Votes(study).put(Vote(token, item, [2, 0, 1]))
    saved = json.loads((study / "plan.json").read_text())
    del saved["salt"]
    (study / "plan.json").write_text(json.dumps(saved))
    with pytest.raises(InputError, match="follow from its seed"):
        make_app(study)
    assert len(read_study(study)[1]) == 1


def test_many_threads_lose_nothing(study):
    votes = Votes(study)
    threads = [threading.Thread(target=lambda k=k: [votes.put(Vote(f"a{k}", f"i{n}", [0, 1])) for n in range(10)]) for k in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(votes.all()) == 100


def _post(port, token, vote):
    body = json.dumps(vote).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/a/{token}/vote", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.status == 200


@pytest.mark.slow
def test_kill_9_during_voting_loses_no_acknowledged_vote(study):
    """Three of the fifty kills of benchmarks/study.py."""
    plan = Plan.load(study)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from pathlib import Path; from ddmd.measure.study.server import serve; serve(Path({str(study)!r}), '127.0.0.1', {port})"
    acknowledged = {}
    chance = random.Random(0)
    for _ in range(3):
        server = subprocess.Popen([sys.executable, "-c", code])
        stop = threading.Event()

        def keep_voting(stop=stop):
            while not stop.is_set():
                token, hand = chance.choice(list(plan.annotators.items()))
                item, ranking = chance.choice(hand), chance.sample(range(3), 3)
                vote = {"item": item, "ranking": ranking}
                try:
                    # Between the call and the mark below, what is stored may be newer than what is known: both are taken down.
                    acknowledged.setdefault((token, item), []).append((ranking, False))
                    _post(port, token, vote)
                    acknowledged[token, item].append((ranking, True))
                except OSError:
                    time.sleep(0.01)

        voter = threading.Thread(target=keep_voting)
        voter.start()
        deadline = time.monotonic() + 60
        while not any(sure for votes in acknowledged.values() for _, sure in votes) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        stop.set()
        voter.join()
    stored = {(vote.annotator, vote.item): vote.ranking for vote in Votes(study).all()}
    items = {item.id: item for item in plan.items}
    sure = {place for place, votes in acknowledged.items() if any(known for _, known in votes)}
    assert sure and sure <= set(stored)
    for token, item in sure:
        votes = acknowledged[token, item]
        last = max(i for i, (_, known) in enumerate(votes) if known)
        allowed = [votes[last][0], *(ranking for ranking, _ in votes[last + 1 :])]
        order = plan.shuffled(token, items[item])
        assert stored[token, item] in [[order[i] for i in ranking] for ranking in allowed]
