"""A study's plan: which images are shown to whom, with the key that tells what they are kept apart.

A study's folder holds `plan.json` (who judges what; its links and its salt are secret), `key.json` (which image is whose; the
server never opens it), `images/` under random names, and `votes.sqlite`. The three files are their owner's alone to read.

Whatever an annotator sees is drawn by chance or by the salt. The seed, which can be guessed, says only which prompts are judged.
"""

from __future__ import annotations

import hmac
import json
import os
import random
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import InputError
from ...files import folder_atomic, read_json_lines, read_object
from ...images import open_image, picture_files
from ...teachers.pictures import PICTURES
from ...teachers.prompt_files import read_prompts

Kind = Literal["ranking", "sidebyside"]
KINDS: tuple[Kind, ...] = ("ranking", "sidebyside")
MODEL_NAME = re.compile(r"[\w.+ -]{1,40}")
TOKEN_BYTES = 16
SALT_BYTES = 32
PRIVATE = 0o600  # links, the key and the votes are nobody else's to read
CHANCE = secrets.SystemRandom()
RUBBLE = 8  # a spoiled picture of an attention check keeps every eighth pixel


@dataclass(frozen=True)
class Row:
    """One prompt with an image of each model compared, by their names in `images/`."""

    prompt: str
    images: list[str]


@dataclass(frozen=True)
class Item:
    """What is answered at once: one row to rank, or the many rows of one comparison of two models."""

    id: str
    rows: list[Row]


@dataclass(frozen=True)
class Plan:
    """A study without its key: everything that the server knows."""

    kind: Kind
    seed: int
    ask_reason: bool
    items: list[Item]
    annotators: dict[str, list[str]]  # token -> items, in the order shown
    salt: str = ""  # hexadecimal, never served; empty in studies of versions that drew orders by the seed

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Raises InputError for a folder without a study, or with a damaged one."""
        path = folder / "plan.json"
        if not path.is_file():
            raise InputError(str(folder), "no study in it", "make one with `ddmd study new`")
        try:
            saved = read_object(path)
            items = [Item(item["id"], [Row(**row) for row in item["rows"]]) for item in saved["items"]]
            plan = cls(saved["kind"], saved["seed"], saved["ask_reason"], items, saved["annotators"], saved.get("salt", ""))
            plan.check()
            return plan
        except (InputError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(str(path), f"no plan that can be read ({type(error).__name__})", "restore it from a copy") from error

    def check(self) -> None:
        """Raises ValueError, KeyError or TypeError where items and annotators do not fit together."""
        salted = bytes.fromhex(self.salt)
        known = {item.id: {len(row.images) for row in item.rows} for item in self.items}
        if self.kind not in KINDS or (self.salt and len(salted) < SALT_BYTES):
            raise ValueError("kind or salt")
        if any(len(sizes) != 1 or min(sizes) < 2 for sizes in known.values()):
            raise ValueError("an item without pictures to compare")
        if any(item not in known for hand in self.annotators.values() for item in hand):
            raise ValueError("an annotator with an unknown item")

    def numbers(self) -> dict[str, int]:
        """The annotators' numbers, as `ddmd study serve` prints them, by token."""
        return {token: number for number, token in enumerate(self.annotators, 1)}

    def shuffled(self, token: str, item: Item) -> list[int]:
        """The order in which an annotator sees an item's models, the same at every visit.

        Annotators know their link and their items: without the salt they cannot undo it.
        """
        order = list(range(len(item.rows[0].images)))
        digest = hmac.digest(bytes.fromhex(self.salt), f"{token} {item.id}".encode(), "sha256")
        random.Random(int.from_bytes(digest)).shuffle(order)
        return order


@dataclass(frozen=True)
class Key:
    """What nobody but the report may know: the models of each item's images, checks and repeats."""

    models: list[str]
    items: dict[str, list[str]]  # item -> model of each image
    spoiled: dict[str, str]  # attention check -> the model whose image is rubble
    repeats: dict[str, str]  # item -> the item that it shows again

    @classmethod
    def load(cls, folder: Path) -> Key:
        """Raises InputError where the key is missing."""
        try:
            return cls(**read_object(folder / "key.json"))
        except (InputError, TypeError) as error:
            raise InputError(str(folder / "key.json"), f"no key ({type(error).__name__})", "without it votes mean nothing") from error

    def check(self, plan: Plan, folder: Path) -> None:
        """Raise InputError where the key is not this plan's."""
        sizes = {item.id: len(item.rows[0].images) for item in plan.items}
        try:
            fits = {item: len(models) for item, models in self.items.items()} == sizes
            fits &= all(model in self.items[item] for item, model in self.spoiled.items())
            fits &= all(again in sizes and first in sizes for again, first in self.repeats.items())
        except (AttributeError, KeyError, TypeError):
            fits = False
        if not fits:
            raise InputError(str(folder / "key.json"), "a key that is not this study's", "restore the study's own from a copy")


@dataclass(frozen=True)
class Wish:
    """How a study is to be."""

    kind: Kind
    n: int = 500
    seed: int = 0
    annotators: int = 10
    judges: int = 1  # annotators who see each item of a ranking; a comparison is answered by all
    checks: int = 0
    repeats: int = 0
    ask_reason: bool = False


def new_study(folder: Path, images: dict[str, Path], prompts: Path, wish: Wish, report: Callable[[int, int], None]) -> Plan:
    """Pair images by prompt, draw a sample, and write the study. Raises InputError for anything that does not fit together."""
    _check(folder, images, wish)
    texts = read_prompts(prompts)
    if len(set(texts)) < len(texts):
        twice = next(text for i, text in enumerate(texts) if text in texts[:i])
        raise InputError(str(prompts), f"{len(texts) - len(set(texts))} prompts twice, such as {twice[:60]!r}", "give each once")
    found = {model: find_images(source, texts) for model, source in images.items()}
    items, owners = [], {}
    rows: list[tuple[Path, str]] = []

    def row(prompt: int, models: Sequence[str]) -> Row:
        names = [f"{secrets.token_hex(TOKEN_BYTES)}.png" for _ in models]
        rows.extend(zip((found[model][prompt] for model in models), names))
        return Row(texts[prompt], names)

    comparisons = _comparisons(list(images), wish.kind)
    for models, chosen in zip(comparisons, _samples(len(texts), len(comparisons), wish)):
        parts = [[prompt] for prompt in chosen] if wish.kind == "ranking" else [chosen]
        for part in parts:
            item = Item(secrets.token_hex(8), [row(prompt, models) for prompt in part])
            items.append(item)
            owners[item.id] = list(models)
    checks, spoiled = _attention_checks(items[:], owners, wish.checks)
    again = _repeats(items, owners, wish.repeats)
    shown = [*items, *checks, *again.values()]
    salt = secrets.token_hex(SALT_BYTES)
    plan = Plan(wish.kind, wish.seed, wish.ask_reason or wish.kind == "sidebyside", shown, _deal(items, checks, again, wish), salt)
    key = Key(
        list(images), owners, {item: model for item, (model, _) in spoiled.items()}, {item.id: first for first, item in again.items()}
    )
    rubble = {name for _, names in spoiled.values() for name in names}
    twins = _twins(checks, items)
    with folder_atomic(folder) as temporary:
        (temporary / "images").mkdir()
        by_name = {name: path for path, name in rows}
        every = [name for item in plan.items for r in item.rows for name in r.images]
        names = list(dict.fromkeys(every))
        CHANCE.shuffle(names)  # the order of writing tells nothing
        for i, name in enumerate(names):
            _copy_picture(by_name[twins.get(name, name)], temporary / "images" / name, name in rubble)
            report(i + 1, len(names))
        _write_private(temporary / "plan.json", asdict(plan))
        _write_private(temporary / "key.json", asdict(key))
    return plan


def _write_private(path: Path, value: Any) -> None:
    """Write JSON into a new file that is at no moment anybody else's to read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "w", encoding="utf-8") as handle:
        json.dump(value, handle, indent=1, ensure_ascii=False)


def _samples(prompts: int, comparisons: int, wish: Wish) -> list[list[int]]:
    """The prompts of each comparison. Which they are follows from the seed; their order, and which comparison has them, does not.

    Comparisons share no prompt while there are enough: who sees one picture in two comparisons knows whose it is.
    """
    n, draw = min(wish.n, prompts), random.Random(wish.seed)
    if n * comparisons <= prompts:
        drawn = draw.sample(range(prompts), n * comparisons)
        samples = [drawn[i * n : (i + 1) * n] for i in range(comparisons)]
    else:
        samples = [draw.sample(range(prompts), n) for _ in range(comparisons)]
    for sample in samples:
        CHANCE.shuffle(sample)
    CHANCE.shuffle(samples)
    return samples


def _check(folder: Path, images: dict[str, Path], wish: Wish) -> None:
    if wish.kind not in KINDS:
        raise InputError("--kind", repr(wish.kind), f"use one of {', '.join(KINDS)}")
    if folder.exists() and not folder.is_dir():
        raise InputError(str(folder), "a file", "give a new folder: a study never replaces anything")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(str(folder), "a folder that is not empty", "give a new one: a study is never overwritten")
    if len(images) < 2:
        raise InputError("--images", f"{len(images)} models", "give two or more, as A=DIR B=DIR")
    for model in images:
        if not MODEL_NAME.fullmatch(model):
            raise InputError("--images", f"the name {model[:60]!r}", "use letters, digits, spaces and . _ + -, at most 40")
    if not 1 <= wish.judges <= wish.annotators:
        raise InputError("--judges", str(wish.judges), f"an item can be judged by 1 to {wish.annotators} annotators")
    if wish.kind == "sidebyside" and (wish.checks or wish.repeats):
        raise InputError("--checks", "checks or repeats in a side-by-side study", "they belong to rankings")


def find_images(source: Path, prompts: Sequence[str]) -> list[Path]:
    """The image of every prompt: by `metadata.jsonl` (file_name, text) where there is one, else by order of name.

    Raises InputError when images and prompts do not match one to one.
    """
    if not source.is_dir():
        raise InputError(str(source), "no such folder", "give a folder of images, one a prompt")
    table = source / "metadata.jsonl"
    if table.is_file():
        return _by_table(source, table, prompts)
    files = sorted(picture_files(source, PICTURES), key=_natural)
    if len(files) != len(prompts):
        raise InputError(
            str(source), f"{len(files)} images for {len(prompts)} prompts",
            "give one each, in the order of their names, or a metadata.jsonl with file_name and text",
        )  # fmt: skip
    return files


def _by_table(source: Path, table: Path, prompts: Sequence[str]) -> list[Path]:
    found: dict[str, Path] = {}
    rows = read_json_lines(table)
    try:
        for entry in rows:
            path = (source / entry["file_name"]).resolve()
            if not path.is_relative_to(source.resolve()) or not path.is_file():
                raise InputError(str(table), f"{entry['file_name']!r}, which is not in the folder", "mend the line")
            found[entry["text"]] = path
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(str(table), f"a line without file_name and text ({type(error).__name__})", "mend it") from error
    missing = [prompt for prompt in prompts if prompt not in found]
    if missing:
        raise InputError(str(source), f"no image for {len(missing)} of {len(prompts)} prompts, such as {missing[0][:60]!r}", "add them")
    return [found[prompt] for prompt in prompts]


def _natural(path: Path) -> list[Any]:
    """2.png before 10.png."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path.name)]


def _comparisons(models: list[str], kind: Kind) -> list[tuple[str, ...]]:
    """A ranking shows all models at once; side by side shows the last against each of the others."""
    return [tuple(models)] if kind == "ranking" else [(model, models[-1]) for model in models[:-1]]


def _attention_checks(items: list[Item], owners: dict[str, list[str]], n: int) -> tuple[list[Item], dict[str, tuple[str, list[str]]]]:
    """Copies of items in which one image is rubble, and item -> (its model, the names of the rubble)."""
    if n > len(items):
        raise InputError("--checks", str(n), f"there are only {len(items)} items")
    checks, spoiled = [], {}
    for item in CHANCE.sample(items, n):
        check = Item(
            secrets.token_hex(8), [Row(row.prompt, [f"{secrets.token_hex(TOKEN_BYTES)}.png" for _ in row.images]) for row in item.rows]
        )
        place = CHANCE.randrange(len(owners[item.id]))
        owners[check.id] = owners[item.id]
        spoiled[check.id] = (owners[item.id][place], [row.images[place] for row in check.rows])
        checks.append(check)
    return checks, spoiled


def _twins(checks: list[Item], items: list[Item]) -> dict[str, str]:
    """Name of an image of a check -> name of the image that it copies."""
    rows = {row.prompt: row for item in items for row in item.rows}
    return {copy: name for check in checks for row in check.rows for copy, name in zip(row.images, rows[row.prompt].images)}


def _repeats(items: list[Item], owners: dict[str, list[str]], n: int) -> dict[str, Item]:
    """First item -> its second showing, to the same annotator."""
    if n > len(items):
        raise InputError("--repeats", str(n), f"there are only {len(items)} items")
    again = {item.id: Item(secrets.token_hex(8), item.rows) for item in CHANCE.sample(items, n)}
    owners.update({second.id: owners[first] for first, second in again.items()})
    return again


def _deal(items: list[Item], checks: list[Item], again: dict[str, Item], wish: Wish) -> dict[str, list[str]]:
    """Items to annotators in turn; all checks and comparisons to everybody; a repeat to those who had the first, later."""
    tokens = [secrets.token_urlsafe(TOKEN_BYTES) for _ in range(wish.annotators)]
    hands: dict[str, list[str]] = {token: [] for token in tokens}
    turn = 0
    for item in CHANCE.sample(items, len(items)):
        judges = wish.annotators if wish.kind == "sidebyside" else wish.judges
        for _ in range(judges):
            hands[tokens[turn % len(tokens)]].append(item.id)
            turn += 1
    for hand in hands.values():
        for check in checks:
            hand.insert(CHANCE.randrange(len(hand) + 1), check.id)
        seconds = [again[item].id for item in hand if item in again]
        hand.extend(CHANCE.sample(seconds, len(seconds)))
    return hands


def _copy_picture(source: Path, target: Path, spoil: bool) -> None:
    """Write a picture anew as PNG, so that its metadata, format and time of writing tell nothing."""
    from PIL import Image

    picture = open_image(source)
    if spoil:
        small = picture.resize((max(1, picture.width // RUBBLE), max(1, picture.height // RUBBLE)), Image.Resampling.NEAREST)
        picture = small.resize(picture.size, Image.Resampling.NEAREST)
    bare = Image.new("RGB", picture.size)
    bare.paste(picture)
    bare.save(target, format="PNG")
    os.utime(target, (0, 0))
