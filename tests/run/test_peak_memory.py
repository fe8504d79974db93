"""Adapters against copies: what a cycle holds at its peak, counted on the storages of tensors."""

import pytest
from accelerate import Accelerator

from ddmd.measure.rehearsal import Count
from ddmd.method.batch import Batch
from ddmd.run.recipe import load_recipe
from ddmd.run.setup import build
from tiny import RESOLUTION, save_twin


@pytest.mark.parametrize(("twin", "recipe"), [("sdxl-kl", "sdxl_ddmd_lora"), ("z_image", "zimage_ddmd_8step_lora")])
def test_adapters_hold_less_than_half_of_three_copies(twin, recipe, tmp_path):
    """Goal: at most .45, all in float32, adapters of rank 2; a twin's activations weigh more against its weights than a real model's."""
    model = save_twin(twin, tmp_path / twin)
    (tmp_path / "prompts.txt").write_text("a red circle\na blue star\n")

    def peak(*kind):
        given = {
            "model": model,
            "train.prompts": tmp_path / "prompts.txt",
            "train.cache": "null",
            "train.batch": 1,
            "optim.precision": "fp32",
            "resolution": RESOLUTION.get(twin, "null"),
            "allow_distilled_teacher": "true",
        }
        parts = build(load_recipe(recipe, [*(f"{key}={value}" for key, value in given.items()), *kind]), Accelerator())
        nets = [parts.roles.plain(role) for role in ("teacher", "student", "fake")]
        prompts, distiller = parts.prompts, parts.distiller
        with Count() as count:
            for tensor in (p.data for net in nets for p in net.parameters()):
                count.see(tensor)
            for position in range(2):
                update = distiller.generator_update(Batch(prompts.at(position), prompts.uncond))
                distiller.fake_update(sample=update.sample)
        return count.peak

    copies, adapters = peak("adapters=null"), peak("adapters.rank=2")
    print(f"{twin}: {adapters / 2**20:.2f} MiB against {copies / 2**20:.2f}, {adapters / copies:.3f}")
    assert adapters <= 0.45 * copies
