"""Time of a distillation cycle over its floor: the same forward and backward passes run bare, in the same process.

    python benchmarks/cycle.py [--recipe shapes] [--batch 32] [--repeats 8] [--set key=value ...]

A cycle is one generator update and M fake updates on its very sample, whatever `fake.turn` says. The floor is the sum of
the bare network passes that the cycle made (counted, not assumed): no objective, no noise, no optimiser. Cycle and bare passes take turns, so that a change of the
machine's speed meets both; the ratio of their medians is reported, and the passes per cycle.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter, defaultdict

import torch
from accelerate import Accelerator

from ddmd.method.batch import Batch, concatenate
from ddmd.run.recipe import load_recipe
from ddmd.run.results import machine
from ddmd.run.setup import build


def counted(roles, log):
    """Record (role, batch, graph) of every network call."""
    call = roles.call

    def wrapper(network, z, u, cond):
        role = next(name for name in ("teacher", "student", "fake") if network is roles.networks[name])
        log.append((role, len(z), torch.is_grad_enabled() and role != "teacher"))
        return call(network, z, u, cond)

    roles.call = wrapper


def bare_pass(parts, role, size, graph):
    """Seconds of one forward pass, with its backward pass when it has a graph."""
    denoiser, network = parts.denoiser, parts.roles.networks[role]
    z, u = torch.randn(size, *denoiser.shape), torch.full((size,), 0.5, dtype=torch.float64)
    cond = parts.prompts.at(0)
    cond = concatenate([cond] * (size // parts.prompts.batch))
    start = time.perf_counter()
    with torch.set_grad_enabled(graph):
        output = denoiser.call(network, z, u, cond)
        if graph:
            output.backward(torch.ones_like(output))
    seconds = time.perf_counter() - start
    network.zero_grad(set_to_none=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="shapes")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, [f"train.batch={arguments.batch}", "adapters=null", *arguments.set])
    parts = build(recipe, Accelerator())
    log: list[tuple[str, int, bool]] = []
    counted(parts.roles, log)

    def cycle():
        batch = Batch(parts.prompts.at(0), parts.prompts.uncond)
        sample = parts.distiller.generator_update(batch).sample
        if "fake" in parts.roles.trained:
            for _ in range(recipe.fake.updates):
                parts.distiller.fake_update(sample=sample)

    cycle()
    ratios, passes, seconds = [], Counter(), defaultdict(list)
    for _ in range(arguments.repeats):
        log.clear()
        start = time.perf_counter()
        cycle()
        whole = time.perf_counter() - start
        made = Counter(log)
        before = dict(made)
        floor = sum(count * statistics.median(bare_pass(parts, *kind) for _ in range(3)) for kind, count in before.items())
        ratios.append(whole / floor)
        seconds["cycle"].append(whole)
        seconds["floor"].append(floor)
        passes.update(made)
    print(
        json.dumps(
            {
                "machine": machine(), "recipe": recipe.name, "batch": arguments.batch, "repeats": arguments.repeats,
                "ratio_median": round(statistics.median(ratios), 3), "ratio_min": round(min(ratios), 3), "ratio_max": round(max(ratios), 3),
                "seconds_median": {k: round(statistics.median(v), 3) for k, v in seconds.items()},
                "passes_per_cycle": {f"{role} x{size}{' + backward' if graph else ''}": n / arguments.repeats for (role, size, graph), n in sorted(passes.items())},
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
