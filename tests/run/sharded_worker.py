"""What each of torchrun's processes does for test_sharded.py, asked by REQUEST in the folder of the tiny twins; writes rank-N.json there.

`families`: the same updates whole and by FSDP2. `gradients`: every gradient of a step, by this process alone and by both together.
"""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from ddmd.method.batch import Batch
from ddmd.quiet import quiet_libraries
from ddmd.run import assembly, setup
from ddmd.run.recipe import Recipe, load_recipe
from ddmd.run.setup import Parts, accelerator_for, build
from ddmd.teachers.sharding import local, whole
from tiny import RESOLUTION


def updates(recipe: str, twin: str, folder: Path, sharded: bool) -> dict[str, float]:
    given = {
        "model": folder / twin, "family": "null", "train.prompts": folder / "prompts.txt", "train.cache": "null", "train.batch": 2,
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


def gradients(words: list[str]) -> dict[str, dict[str, float]]:
    """How far every role's gradients of a step are from the mean of the processes' own, whole and divided, relative to its size.

    `own` is how far this process's are from it; `drawn` is how far its weights are from the mean of both before anything was learned.
    """
    asked = load_recipe(words[0], words[1:])
    parts = parts_of(asked)
    start, settle = parts.distiller.state_dict(), parts.distiller.settle_gradients
    parts.distiller.settle_gradients = lambda trained: None
    found = {"own": steps(parts)}
    mean = {role: everywhere_mean(own) for role, own in found["own"].items()}
    parts.distiller.load_state_dict(start)
    parts.distiller.settle_gradients = settle
    found["whole"] = steps(parts)
    drawn = flat(p.detach() for o in parts.optimizers.values() for g in o.param_groups for p in g["params"])
    if asked.adapters is not None:  # the halves of copies are compared by their moments
        divided = asked.model_copy(update={"optim": asked.optim.model_copy(update={"sharded": True})})
        found["divided"] = steps(parts_of(divided))
    gaps = {kind: {role: ((them[role] - mean[role]).norm() / mean[role].norm()).item() for role in mean} for kind, them in found.items()}
    return {**gaps, "drawn": {"all": (drawn - everywhere_mean(drawn)).abs().max().item()}}


def parts_of(asked: Recipe) -> Parts:
    """As if encoding had drawn more numbers in one process than in the other."""
    accelerator = accelerator_for(asked)

    def build_roles(*given):
        torch.manual_seed(accelerator.process_index)
        return assembly.build_roles(*given)

    setup.build_roles = build_roles
    return build(asked, accelerator)


def steps(parts: Parts) -> dict[str, torch.Tensor]:
    """The gradients that each role's optimiser is given in a first cycle; it makes no step."""
    distiller, seen = parts.distiller, {}
    for role, optimizer in parts.optimizers.items():

        def step(role=role, optimizer=optimizer):
            seen[role] = flat(p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None)

        optimizer.step = step
    reals = parts.reals.at(0) if parts.reals else None
    sample = distiller.generator_update(Batch(parts.prompts.at(0), parts.prompts.uncond)).sample
    distiller.fake_update(sample=sample, reals=reals)
    if "discriminator" in parts.optimizers:
        distiller.critic_update(sample, reals)
    return seen


def flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([whole(tensor).flatten() for tensor in tensors])


def everywhere_mean(mine: torch.Tensor) -> torch.Tensor:
    both = mine.clone()
    torch.distributed.all_reduce(both)
    return both / torch.distributed.get_world_size()


def main() -> None:
    quiet_libraries()
    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text())
    said = {"families": {}, "gradients": {}}
    for asked in request["families"]:
        recipe, twin = asked.split(":")
        said["families"][asked] = [updates(recipe, twin, folder, sharded) for sharded in (False, True)]
    for name, words in request["gradients"].items():
        said["gradients"][name] = gradients(words)
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(said))


main()
