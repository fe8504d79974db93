"""Three roles, teacher, student and fake, on three copies of a network or on one base with two LoRA adapters.

Both answer the same calls. Sharing a base has silent traps: a backward pass run while another adapter is active gives
no gradient, or, under gradient checkpointing, a wrong one. Here every output that carries a graph remembers its role
and refuses to be differentiated under another; `backward` restores the role first.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..method.batch import Condition
from .eight_bit import quantize_linears
from .sharding import backward_from_inside, local, placed_like

Call = Callable[[nn.Module, Tensor, Tensor, Condition], Tensor]
"""How a family calls its network: (network, z, u, cond) -> native output."""
Divide = Callable[[nn.Module], nn.Module]
"""Divides a network among processes, in place (`sharding.shard`)."""
STUDENT_ONLY, STUDENT_AND_FAKE = ("student",), ("student", "fake")


class RoleError(RuntimeError):
    """A graph of one role was differentiated while another was active."""


class Roles(ABC):
    """What the method needs of the networks; see `ddmd.method.distiller.Roles`."""

    def __init__(self, call: Call, trained: Sequence[str], feature_block: str) -> None:
        self.call, self.trained, self.feature_block = call, tuple(trained), feature_block
        self.divide: Divide | None = None

    @abstractmethod
    def network(self, role: str) -> nn.Module:
        """The module that answers for a role, in that role."""

    def plain(self, role: str) -> nn.Module:
        """The same, where it is looked into or copied and not asked."""
        return self.network(role)

    @abstractmethod
    def parameters(self, role: str) -> list[nn.Parameter]:
        """What a role trains: nothing for the teacher."""

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Move every network to a device, whole."""

    @abstractmethod
    def shard(self, divide: Divide) -> None:
        """Divide every network among processes, the teacher's too; `divide` is kept for what else is trained with them."""

    @abstractmethod
    def named_parameters(self, role: str) -> dict[str, nn.Parameter]:
        """A trained role's parameters by stable names, for checkpoints."""

    def teacher(self, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        """Frozen: never a graph."""
        with torch.no_grad():
            return self.call(self.network("teacher"), z, u, cond)

    def student(self, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        return self._guarded("student", self.call(self.network("student"), z, u, cond))

    def fake(self, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        if "fake" not in self.trained:
            raise RoleError("fake: these roles were built without a fake model; name it in `trained`")
        return self._guarded("fake", self.call(self.network("fake"), z, u, cond))

    def features(self, role: str, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        """What the family's feature block makes of z in a role: maps (B, C, H, W) or image tokens (B, L, C), its last output."""
        caught: list[Tensor] = []
        block = self.plain(role).get_submodule(self.feature_block)
        hook = block.register_forward_hook(
            lambda module, inputs, output: caught.append(output[-1] if isinstance(output, tuple) else output)
        )
        try:
            self.call(self.network(role), z, u, cond)
        finally:
            hook.remove()
        if self.divide is not None:
            backward_from_inside(self.plain(role), caught[0])
        return self._guarded(role, caught[0])

    def backward(self, role: str, loss: Tensor) -> None:
        """Differentiate a loss of one role, with that role active."""
        self.network(role)
        loss.backward()

    @abstractmethod
    def follow(self, rate: float) -> None:
        """Move the fake a share of the way to the student: fake <- (1 - rate) * fake + rate * student."""

    def state_dict(self, role: str) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.named_parameters(role).items()}

    @torch.no_grad()
    def load_state_dict(self, role: str, state: dict[str, Tensor]) -> None:
        own = self.named_parameters(role)
        if own.keys() != state.keys():
            raise KeyError(f"{role}: {len(own.keys() ^ state.keys())} parameter names differ from the saved ones")
        for name, parameter in own.items():
            parameter.copy_(placed_like(state[name], parameter))

    def _guarded(self, role: str, output: Tensor) -> Tensor:
        if output.requires_grad:

            def check(gradient: Tensor) -> Tensor:
                if (active := self.active()) not in (role, None):
                    raise RoleError(f"backward of a {role} graph while {active!r} is active; call roles.backward({role!r}, loss)")
                return gradient

            output.register_hook(check)
        return output

    def active(self) -> str | None:
        """The role now active on a shared base; None where every role has a network of its own."""
        return None


class CopyRoles(Roles):
    """Full copies: the teacher's own network and one more for each trained role."""

    def __init__(
        self,
        network: nn.Module,
        call: Call,
        trained: Sequence[str] = STUDENT_AND_FAKE,
        feature_block: str = "",
        frozen: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(call, trained, feature_block)
        self.networks = {role: copy.deepcopy(network).requires_grad_(True).eval() for role in trained}
        self.networks["teacher"] = network.requires_grad_(False).eval().to(frozen)

    def network(self, role: str) -> nn.Module:
        return self.networks[role]

    def parameters(self, role: str) -> list[nn.Parameter]:
        return [p for p in self.networks[role].parameters() if p.requires_grad]

    def named_parameters(self, role: str) -> dict[str, nn.Parameter]:
        return dict(self.plain(role).named_parameters())

    def to(self, device: torch.device) -> None:
        for network in self.networks.values():
            network.to(device)

    @torch.no_grad()
    def follow(self, rate: float) -> None:
        for fake, student in zip(self.parameters("fake"), self.parameters("student"), strict=True):
            local(fake).lerp_(local(student), rate)

    def shard(self, divide: Divide) -> None:
        self.divide = divide
        self.networks = {role: divide(network) for role, network in self.networks.items()}


class LoraRoles(Roles):
    """One frozen base; `student` and `fake` are LoRA adapters on it and the teacher is the base with both off."""

    def __init__(
        self,
        network: nn.Module,
        call: Call,
        targets: Sequence[str],
        rank: int = 16,
        fake_rank: int | None = None,
        trained: Sequence[str] = STUDENT_AND_FAKE,
        feature_block: str = "",
        frozen: torch.dtype = torch.float32,
        int8: bool = False,
    ) -> None:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        super().__init__(call, trained, feature_block)
        self.base = network.requires_grad_(False).eval().to(frozen)
        self.settings = {"targets": targets, "rank": rank, "fake_rank": fake_rank, "trained": trained, "feature_block": feature_block}
        self.int8 = int8
        if int8:
            quantize_linears(network)
        ranks = {role: rank if role == "student" else fake_rank or rank for role in trained}
        if min(ranks.values()) < 1:
            raise ValueError(f"rank: found {ranks}; LoRA ranks must be at least 1")
        for role, r in ranks.items():
            config = LoraConfig(r=r, lora_alpha=r, target_modules=list(targets), init_lora_weights="gaussian")
            mixin: Any = network
            if hasattr(network, "add_adapter"):
                mixin.add_adapter(config, adapter_name=role)  # diffusers' mixin, so that its LoRA savers know the adapter
            else:
                inject_adapter_in_model(config, network, adapter_name=role)
        self._layers: list[Any] = [m for m in network.modules() if isinstance(m, BaseTunerLayer)]
        self._named = {role: {n: p for n, p in network.named_parameters() if f".{role}." in n} for role in ranks}
        for parameters in self._named.values():
            for parameter in parameters.values():
                parameter.data = parameter.data.float()  # peft makes them in the base's type; their updates would round away
        self._active = ""
        self._activate("teacher")

    def active(self) -> str | None:
        return self._active

    @property
    def rounded(self) -> bool:
        """Whether the base holds less than the teacher's weights as they were read: eight bits, or bfloat16."""
        return self.int8 or any(p.dtype != torch.float32 for p in self.base.parameters())

    def on(self, network: nn.Module) -> LoraRoles:
        """The same adapters on another copy of the base, left in float32 and unquantised: to merge them into."""
        roles = LoraRoles(network, self.call, **self.settings)  # type: ignore[arg-type]
        for role in self.trained:
            roles.load_state_dict(role, self.state_dict(role))
        return roles

    def network(self, role: str) -> nn.Module:
        self._activate(role)
        return self.base

    def parameters(self, role: str) -> list[nn.Parameter]:
        return list(self._named[role].values())

    def named_parameters(self, role: str) -> dict[str, nn.Parameter]:
        return self._named[role]

    def to(self, device: torch.device) -> None:
        self.base.to(device)

    def follow(self, rate: float) -> None:
        """Refused. An adapter's weights are a product of two factors, and the mean of two products has their ranks together.

        Averaging the factors instead goes 1.3 to 1.4 times a step's length sideways. Cutting the mean back to the fake's
        rank would be the best that rank can do, and still stand: a share of a few hundredths of what the student
        learnt, in directions of its own, is less than what the fake has in its last ones, so it is cut off at every step.
        """
        raise RoleError("follow: found adapters; the mean of two adapters is none of the same rank, use full copies")

    def shard(self, divide: Divide) -> None:
        self.divide = divide
        self.base = divide(self.base)
        named = dict(self.base.named_parameters())
        self._named = {role: {name: named[name] for name in own} for role, own in self._named.items()}

    def _activate(self, role: str) -> None:
        if role == self._active:
            return
        for layer in self._layers:
            if role == "teacher":
                layer.enable_adapters(False)
            else:
                layer.enable_adapters(True)
                layer.set_adapter(role)
        # peft freezes whatever is not active; a graph made earlier would then silently lose its gradient.
        for parameters in self._named.values():
            for parameter in parameters.values():
                parameter.requires_grad_(True)
        self._active = role


def in_bfloat16(call: Call) -> Call:
    """The same call in bfloat16, answering in float32: weights kept in it take their inputs in it, others run under autocast."""

    def run(network: nn.Module, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        own = next(network.parameters()).dtype
        if own == torch.bfloat16:
            return call(network, z.to(own), u, _cast(cond, own)).float()
        with torch.autocast(z.device.type, torch.bfloat16):
            return call(network, z, u, cond).float()

    return run


def _cast(cond: Condition, dtype: torch.dtype) -> Condition:
    """Floating tensors of a condition in another type; masks and sizes keep theirs."""

    def one(value: Tensor) -> Tensor:
        return value.to(dtype) if value.is_floating_point() else value

    return {name: one(value) if isinstance(value, Tensor) else [one(row) for row in value] for name, value in cond.items()}
