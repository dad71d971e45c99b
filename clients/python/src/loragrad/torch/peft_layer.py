"""What a projection of a PEFT model is made of, and whether the service can differentiate it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn

from ..errors import UnsupportedError
from ..request import PROJECTIONS


@dataclass(frozen=True)
class PeftProjections:
    """`fields` by projection, as `loragrad.Projection`; `linears` hold the adapters' parameters."""

    fields: dict[str, dict[str, Any]]
    linears: list[nn.Linear]

    @property
    def trainable(self) -> bool:
        return any(linear.weight.requires_grad for linear in self.linears)

    @contextmanager
    def detached(self) -> Iterator[None]:
        """While this lasts the adapters take part in the forward pass, but not in its graph."""
        # Not through the attribute: that takes parameters only, and a new one would be a copy.
        owners: list[dict[str, Any]] = [linear._parameters for linear in self.linears]
        parameters = [owner["weight"] for owner in owners]
        for owner, parameter in zip(owners, parameters, strict=True):
            owner["weight"] = parameter.detach()
        try:
            yield
        finally:
            for owner, parameter in zip(owners, parameters, strict=True):
                owner["weight"] = parameter


def has_adapter(attention: nn.Module) -> bool:
    return any(isinstance(getattr(attention, name, None), LoraLayer) for name in PROJECTIONS)


def read_projections(attention: nn.Module, where: str) -> PeftProjections:
    """:param where: name of the layer, for messages"""
    fields, linears = {}, []
    for name in PROJECTIONS:
        module = getattr(attention, name)
        fields[name], adapter = _read(module, f"{where}.{name}")
        linears += adapter
    return PeftProjections(fields, linears)


def _read(module: nn.Module, where: str) -> tuple[dict[str, Any], list[nn.Linear]]:
    if not isinstance(module, LoraLayer):
        return _frozen(module, where), []
    if not isinstance(module, LoraLinear):
        raise UnsupportedError(
            f"{where} is a {type(module).__name__}; only LoRA of nn.Linear is supported"
        )
    if module.merged:
        raise UnsupportedError(f"{where}: the adapter is merged into the weight; unmerge it first")
    fields = _frozen(module.get_base_layer(), where)
    active = (
        [] if module.disable_adapters else [a for a in module.active_adapters if a in module.lora_A]
    )
    if not active:
        return fields, []
    if len(active) > 1:
        raise UnsupportedError(f"{where} has several active adapters ({', '.join(active)})")
    name = active[0]
    lora_A, lora_B = module.lora_A[name], module.lora_B[name]
    _refuse_variants(module, name, where)
    fields |= {
        "lora_A": lora_A.weight,
        "lora_B": lora_B.weight,
        # PEFT's scaling has rsLoRA and set_scale in it already.
        "lora_alpha": float(module.scaling[name]) * lora_A.weight.shape[0],
    }
    return fields, [lora_A, lora_B]


def _frozen(linear: nn.Module, where: str) -> dict[str, Any]:
    weight = getattr(linear, "weight", None)
    if type(linear) is not nn.Linear or type(weight) is not nn.Parameter:
        kind = type(linear).__name__
        raise UnsupportedError(
            f"{where} is a {kind}; quantised and custom layers are not supported"
        )
    fields = {"weight": linear.weight}
    return fields if linear.bias is None else {**fields, "bias": linear.bias}


def _refuse_variants(module: LoraLinear, adapter: str, where: str) -> None:
    variant = getattr(module, "lora_variant", {}).get(adapter)
    if variant is not None or getattr(module, "use_dora", {}).get(adapter):
        kind = "DoRA" if variant is None else type(variant).__name__
        raise UnsupportedError(
            f"{where} is a variant of LoRA ({kind}); only plain LoRA is supported"
        )
    if module.lora_B[adapter].bias is not None:
        raise UnsupportedError(f"{where} has a trainable bias in its adapter (lora_bias)")
    if getattr(module.lora_dropout[adapter], "p", 0):
        raise UnsupportedError(
            f"{where} has dropout in its adapter; set lora_dropout=0 in LoraConfig"
        )
