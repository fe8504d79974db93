"""Adapters against copies: what a cycle holds at its peak, counted on the storages of tensors."""

import weakref

import pytest
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddmd.method.batch import Batch
from ddmd.run.recipe import load_recipe
from ddmd.run.setup import build
from tiny import RESOLUTION, save_twin


class Peak(TorchDispatchMode):
    """Bytes of all storages alive under it; `held` are those from before."""

    def __init__(self, held):
        super().__init__()
        self.live, self.now = set(), 0
        for tensor in held:
            self._see(tensor)
        self.peak = self.now

    def _see(self, tensor):
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.live:
            self.live.add(key)
            self.now += size
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key, size):
        self.live.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor):
                self._see(value)
        self.peak = max(self.peak, self.now)
        return out


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
        with Peak([p.data for net in nets for p in net.parameters()]) as tracker:
            for position in range(2):
                update = distiller.generator_update(Batch(prompts.at(position), prompts.uncond))
                distiller.fake_update(sample=update.sample)
        return tracker.peak

    copies, adapters = peak("adapters=null"), peak("adapters.rank=2")
    print(f"{twin}: {adapters / 2**20:.2f} MiB against {copies / 2**20:.2f}, {adapters / copies:.3f}")
    assert adapters <= 0.45 * copies
