"""A run rehearsed without memory: the recipe's own code on tensors that have shapes and no contents, and what they would hold.

PyTorch's fake tensors stand for weights and activations; what steers the code (levels, masks, lengths) stays real. So a
network of billions of weights goes through a cycle in seconds on any machine.
"""

from __future__ import annotations

import gc
import importlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from ..errors import InputError
from ..method.batch import Batch, Reals, batch_size, select
from ..method.distiller import MeanVariance
from ..run.assembly import build_distiller, build_roles, shifted
from ..run.recipe import Recipe
from ..run.setup import SHOWN, training_prompts
from ..teachers.builtin import load_suite, model_folder
from ..teachers.denoisers import Denoiser, as_denoiser, check_family, read_index
from ..teachers.denoisers.parts import check_configurations, check_files
from ..teachers.prompts import encode_all
from ..teachers.sampling import at_once, guided

# A prompt of some length, where the recipe's file is not there yet.
WORDS = "a lighthouse on a rocky shore at dusk, its beam over dark waves, gulls, oil painting, " * 4
ENCODED_AT_ONCE = 64  # prompts: a shard of the cache
ENCODING, GENERATOR, PICTURES = "encoding prompts", "a generator update", "sample pictures"
Report = Callable[[str, int, int], None]
"""(stage, how many are done, of how many)."""


def rehearse(recipe: Recipe, report: Report = lambda stage, done, total: None) -> dict[str, int]:
    """Bytes held between the cycles of a run, and at the peak of each of its stages. Raises InputError for an unusable model folder."""
    updates = {"fake": "a fake update", "discriminator": "a discriminator update"}
    stages = [ENCODING, GENERATOR, *(name for role, name in updates.items() if role in recipe.trained_roles), PICTURES]
    size = recipe.train.batch
    with Rehearsal(lambda stage: report(stage, stages.index(stage), len(stages))) as on_stage:
        denoiser = open_without_weights(recipe, on_stage.fake)
        network = sum(p.numel() * p.element_size() for p in denoiser.network.parameters())
        with on_stage(ENCODING):
            cond = encode_all(denoiser, [_longest_prompt(recipe)] * ENCODED_AT_ONCE)
            uncond = denoiser.unconditional(size)
        on_stage.peaks[ENCODING] -= network  # which comes to the device only afterwards
        if recipe.suite is None:
            denoiser.drop_encoders()
        shown = select(cond, torch.arange(at_once(denoiser) if recipe.suite else min(SHOWN, at_once(denoiser))))
        cond = select(cond, torch.arange(size))
        with on_stage.fake:
            roles = build_roles(recipe, denoiser)
            average = [parameter.detach().clone() for parameter in roles.parameters("student")]
        target = MeanVariance(1.0, 0.0, 1.0) if recipe.objective.mean_variance else None
        distiller = build_distiller(recipe, denoiser, roles, cond, target, torch.device("cpu"), optimizer=_moments)
        distiller.plan = replace(distiller.plan, grid=distiller.plan.grid[:1])  # the way to a later step has no graph and holds less
        reals = Reals(torch.randn(size, *denoiser.shape), cond)
        with on_stage(GENERATOR):
            sample = distiller.generator_update(Batch(cond, uncond, reals.images)).sample
        if "fake" in roles.trained:
            with on_stage(updates["fake"]):
                distiller.fake_update(None, sample, reals)
        if "discriminator" in roles.trained:
            with on_stage(updates["discriminator"]):
                distiller.critic_update(sample, reals)
        on_stage.peaks = {"between cycles": on_stage.count.now, **on_stage.peaks}
        with on_stage(PICTURES), torch.no_grad():
            number = batch_size(shown)
            predict = guided(denoiser, roles.teacher, shown, recipe.teacher_guidance)
            denoiser.decode(predict(torch.randn(number, *denoiser.shape), torch.ones(number, dtype=torch.float64)))
        del average
    return on_stage.peaks


class Rehearsal(ExitStack):
    """Within it, what is made in `fake` has no contents, and the bytes of every stage are counted: `with rehearsal("name"): ...`."""

    def __init__(self, begins: Callable[[str], None] = lambda stage: None) -> None:
        super().__init__()
        self.begins = begins
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.count = Count()
        self.peaks: dict[str, int] = {}

    def __enter__(self) -> Rehearsal:
        super().__enter__()
        self.enter_context(patch.object(nn.Module, "_apply", _apply))
        self.enter_context(_Copies())
        self.enter_context(self.count)
        return self

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Note what is held at most until the block ends."""
        self.begins(stage)
        gc.collect()
        self.count.peak = self.count.now
        yield
        self.peaks[stage] = self.count.peak


class Count(TorchDispatchMode):
    """Bytes of the storages made under it: `now` and at their `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._live: dict[int, int] = {}

    def see(self, tensor: Tensor) -> None:
        """Count a tensor's storage, or those of the tensors that it wraps, until it is freed."""
        if is_traceable_wrapper_subclass(tensor):
            for name in tensor.__tensor_flatten__()[0]:
                self.see(getattr(tensor, name))
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._live:
            self._live[key] = size
            self.now += size
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._live.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], FakeTensor):
            if func is torch.ops.prim.device.default:
                return args[0].fake_device  # half of all calls, and none of them makes anything
            if func is torch.ops.aten.index.Tensor:
                args = (args[0], _places(args[1]))
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self.see(value)
        self.peak = max(self.peak, self.now)
        return made


def _places(index: Sequence[Tensor | None]) -> list[Tensor | None]:
    """An index with real masks turned into the places that they name: how many these are is all that a fake tensor must know."""
    found: list[Tensor | None] = []
    for part in index:
        real_mask = part is not None and part.dtype == torch.bool and not isinstance(part, FakeTensor)
        found += part.nonzero().unbind(1) if real_mask and part is not None else [part]
    return found


class _Copies(TorchFunctionMode):
    """A deep copy of a fake tensor by its shape; torch's own would read its storage, which is not there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__ or not isinstance(args[0], FakeTensor):
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            copied: Tensor = tensor.detach().clone()
            memo[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
        return memo[id(tensor)]


def _apply(module: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    """`Module._apply` by assignment: the stock one swaps tensors, which fake ones do not allow."""
    for child in module.children() if recurse else ():
        child._apply(fn)
    for parameter in module._parameters.values():
        if parameter is not None:
            parameter.data = fn(parameter.data)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = fn(buffer)
    return module


class Moments(torch.optim.Optimizer):
    """AdamW's two moments, there from the start, and no step: a fused one needs nothing more."""

    def __init__(self, parameters: list[nn.Parameter], moment: torch.dtype = torch.float32) -> None:
        super().__init__(parameters, {})
        for parameter in parameters:
            self.state[parameter] = {name: torch.empty_like(parameter, dtype=moment) for name in ("first", "second")}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing."""


def _longest_prompt(recipe: Recipe) -> str:
    if recipe.train.prompts and not Path(recipe.train.prompts).exists():
        return WORDS
    return max(training_prompts(recipe, load_suite(recipe.suite) if recipe.suite else None), key=len, default=WORDS)


def _moments(recipe: Recipe, lr: float, parameters: list[nn.Parameter]) -> Moments:
    return Moments(parameters, torch.int8 if recipe.optim.optimizer == "adamw8bit" else torch.float32)


def open_without_weights(recipe: Recipe, fake: FakeTensorMode) -> Denoiser:
    """A pipeline folder as a denoiser whose networks have their shapes alone. Raises InputError for one that does not open."""
    import diffusers

    folder = model_folder(recipe.model)
    check_family(folder, recipe.family, recipe.name)
    index = read_index(folder)
    check_configurations(folder, index)
    parts: dict[str, Any] = {**index.options, **dict.fromkeys(index.absent)}
    try:
        for name, (library, kind) in index.parts.items():
            parts[name] = _part(folder / name, library, kind, fake) if library in ("diffusers", "transformers") else None
        pipeline = getattr(diffusers, index.class_name)(**parts)
    except InputError:
        raise
    except Exception as error:  # as in `load_denoiser`: two libraries raise a dozen types for a damaged folder
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            str(folder), f"a pipeline that does not open ({type(error).__name__}: {reason})", "copy the folder again"
        ) from error
    return shifted(as_denoiser(pipeline, folder, recipe.resolution), recipe)


def _part(folder: Path, library: str, name: str, fake: FakeTensorMode) -> Any:
    """A tokenizer or scheduler as it is, a network without weights."""
    kind = getattr(importlib.import_module(library), name)
    if not issubclass(kind, nn.Module):
        return kind.from_pretrained(folder)
    check_files(folder)
    with fake:
        if library == "diffusers":
            return kind.from_config(kind.load_config(folder)).eval()
        return kind(kind.config_class.from_pretrained(folder)).eval()
