"""The benchmarks: which prompts, how many images, which scorers, and how values become a table's numbers. Data only, but for sums."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import InputError
from ...teachers.builtin import SUITES as EMBEDDED
from ...teachers.builtin.statistics import bootstrap_interval
from .items import Item, Reader, categorised_items, graph_items, plain_items

Numbers = dict[str, float]


@dataclass(frozen=True)
class Part:
    """A set of prompts with what is measured on its images.

    `data` is the path under the suite's --data ("" is the path itself); `copies` is images a prompt; each of `scorers` is a choice:
    the first of its names that was given its files is taken.
    """

    name: str
    data: str
    read: Reader
    scorers: tuple[tuple[str, ...], ...]
    copies: int = 1


@dataclass(frozen=True)
class Suite:
    """A benchmark."""

    about: str
    parts: tuple[Part, ...]
    reference: bool = False  # whether distances are taken, so that real images are needed


def _only(name: str) -> tuple[tuple[str, ...], ...]:
    return ((name,),)


JUDGES = ("mplug", "vqa")
DPG = Part("dpg", "", graph_items, (JUDGES,), copies=4)
HPS21 = Part("hps21", "", categorised_items, _only("hps21"))
HPS3 = Part("hps3", "", categorised_items, _only("hps3"))
SUITES: dict[str, Suite] = {
    "dpg": Suite("DPG-Bench: yes/no questions about four images a prompt", (DPG,)),
    "hps21": Suite("HPS v2.1 on HPDv2's 4 styles x 800 prompts", (HPS21,)),
    "hps3": Suite("HPS v3 on its 12 categories", (HPS3,)),
    "imagereward": Suite("ImageReward on any prompts", (Part("imagereward", "", plain_items, _only("imagereward")),)),
    "clip": Suite("CLIP score on any prompts", (Part("clip", "", plain_items, _only("clip")),)),
    "fid": Suite("Frechet distances (whole images and centre patches) and KID against real images", (Part("fid", "", plain_items, _only("inception")),), reference=True),
    "images": Suite("Frechet and kernel distance on EfficientNet-Lite0 features: no hub needed", (Part("images", "", plain_items, _only("lite0")),), reference=True),
    "offline": Suite(
        "All that weights in packages can say: distances on EfficientNet-Lite0 features, and a text-image score by the emoji judge",
        (Part("offline", "", plain_items, (("lite0",), ("judge",))),), reference=True,
    ),
    "coco10k": Suite(
        "Table 2: FID, CLIP score, ImageReward, HPS v2.1 and HPS v3 on 10,000 COCO captions",
        (Part("coco10k", "", plain_items, (("inception",), ("clip",), ("imagereward",), ("hps21",), ("hps3",))),), reference=True,
    ),
    "table1": Suite(
        "Table 1: DPG-Bench, HPS v2.1 and HPS v3; --data holds dpg_bench.csv, hps21/ and hps3/",
        (Part("dpg", "dpg_bench.csv", graph_items, (JUDGES,), copies=4), Part("hps21", "hps21", categorised_items, _only("hps21")),
         Part("hps3", "hps3", categorised_items, _only("hps3"))),
    ),
}  # fmt: skip


def suite(name: str) -> Suite:
    """A benchmark by name. Raises InputError for an unknown one."""
    if name not in SUITES:
        raise InputError("--suite", repr(name), f"use one of {', '.join((*EMBEDDED, *SUITES))}")
    return SUITES[name]


def rated(items: Sequence[Item], values: Mapping[str, Sequence[float]], scorer: str) -> tuple[Numbers, dict[str, list[float]], Numbers]:
    """Means of a rater's values: (numbers, intervals, means by category).

    With categories the overall number is the unweighted mean of theirs (Tables 6 and 7); its interval draws prompts within categories.
    ImageReward is told x 100, as in Table 2. A value that is no number counts as none.
    """
    scale = 100.0 if scorer == "imagereward" else 1.0
    grouped: dict[str, list[float]] = {}
    for item in items:
        if found := [value for value in values.get(item.id, ()) if math.isfinite(value)]:
            grouped.setdefault(item.category, []).append(scale * sum(found) / len(found))
    categories = {name: sum(v) / len(v) for name, v in grouped.items()}
    if not grouped:
        return {}, {}, {}
    overall = sum(categories.values()) / len(categories)
    every = torch.tensor([value for group in grouped.values() for value in group], dtype=torch.float64)
    weights = torch.tensor([1 / len(group) for group in grouped.values() for _ in group], dtype=torch.float64)
    interval = bootstrap_interval(every * weights, weights) if len(grouped) > 1 else bootstrap_interval(every)
    return {scorer: overall}, {scorer: interval} if interval else {}, {} if list(categories) == [""] else categories


def data_path(root: Path, part: Part) -> Path:
    """Where a part's prompts lie. Raises InputError naming what lacks."""
    path = root / part.data if part.data else root
    if not path.exists():
        raise InputError("--data", f"no {path}", "give the benchmark's prompts (docs/evaluation.md says where they are published)")
    return path
