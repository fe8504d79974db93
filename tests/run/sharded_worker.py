"""What each of torchrun's processes does for test_sharded.py: the same updates by DDP and by FSDP2, family after family.

Arguments: the folder of the tiny twins, then RECIPE:TWIN for each. Writes rank-N.json into the folder.
"""

import json
import os
import sys
from pathlib import Path

from ddmd.method.batch import Batch
from ddmd.quiet import quiet_libraries
from ddmd.run.recipe import load_recipe
from ddmd.run.setup import accelerator_for, build
from ddmd.teachers.sharding import local
from tiny import RESOLUTION


def updates(recipe: str, twin: str, folder: Path, sharded: bool) -> dict[str, float]:
    given = {
        "model": folder / twin, "train.prompts": folder / "prompts.txt", "train.cache": "null", "train.batch": 2,
        "resolution": RESOLUTION.get(twin, "null"), "allow_distilled_teacher": "true", "optim.sharded": str(sharded).lower(),
    }  # fmt: skip
    if "dmd2" in recipe or recipe == "sdxl_ddmd":
        given |= {"objective.gan.reals": "teacher", "train.reals_count": 2, "report.teacher_steps": 2}
    asked = load_recipe(recipe, [f"{key}={value}" for key, value in given.items()])
    parts = build(asked, accelerator_for(asked))
    reals = parts.reals.at(0) if parts.reals else None
    made = parts.distiller.generator_update(Batch(parts.prompts.at(0), parts.prompts.uncond))
    learned = parts.distiller.fake_update(sample=made.sample, reals=reals)
    weights = [p for role in ("teacher", "student", "fake") for p in parts.roles.plain(role).parameters()]
    found = {name: value.item() for name, value in {**made.metrics, **learned.metrics}.items()}
    return {**found, "held": sum(local(p).numel() for p in weights) / sum(p.numel() for p in weights)}


def main() -> None:
    quiet_libraries()
    folder = Path(sys.argv[1])
    said = {}
    for asked in sys.argv[2:]:
        recipe, twin = asked.split(":")
        said[asked] = [updates(recipe, twin, folder, sharded) for sharded in (False, True)]
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(said))


main()
