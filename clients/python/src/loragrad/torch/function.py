"""The autograd function: passes the attention output through, and asks the service on the way back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..client import Client
from ..errors import ProblemError, UnsupportedError
from ..request import PROJECTIONS
from ..result import GradientResult
from .report import CallCost

#: Told of every backward pass. No result: a gradient, from above or of the layer, was not finite.
Listener = Callable[[GradientResult | None, CallCost], None]


@dataclass(frozen=True)
class LayerCall:
    """One use of an attention layer: everything of the request but what autograd knows."""

    client: Client
    projections: Mapping[str, Mapping[str, Any]]
    #: Keywords of the request: heads, scaling, positions, method, tolerance, ...
    options: Mapping[str, Any]
    #: Whether the gradient of hidden_states comes from the service too.
    input_gradients: bool
    listener: Listener | None = None
    #: ("q_proj", "lora_A"), ...: the order of the adapters' tensors.
    adapters: tuple[tuple[str, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        adapters = []
        for name in PROJECTIONS:
            projection = self.projections[name]
            for part in ("weight", "bias"):
                tensor = projection.get(part)
                if tensor is not None and tensor.requires_grad:
                    raise UnsupportedError(
                        f"{name}.{part} requires a gradient; the service computes those of "
                        "lora_A and lora_B only. Freeze it or leave this layer out."
                    )
            if projection.get("lora_A") is not None:
                adapters += [(name, "lora_A"), (name, "lora_B")]
        if not adapters:
            raise ValueError("None of q_proj, k_proj and v_proj has an adapter")
        object.__setattr__(self, "adapters", tuple(adapters))

    def tensors(self) -> list[Tensor]:
        return [self.projections[name][part] for name, part in self.adapters]

    def gradient(
        self, hidden_states: Tensor, tensors: list[Tensor], grad: Tensor
    ) -> GradientResult | None:
        """The answer of the service for adapters whose tensors are given in the order of `adapters`.

        None: something overflows. Loss scaling relies on that coming out as it went in.
        """
        if not torch.isfinite(grad).all():
            return None
        projections = {name: dict(self.projections[name]) for name in PROJECTIONS}
        for (name, part), tensor in zip(self.adapters, tensors, strict=True):
            projections[name][part] = tensor
        request: dict[str, Any] = {
            **self.options,
            **projections,
            "hidden_states": hidden_states,
            "grad_output": grad,
        }
        if self.input_gradients:
            request["outputs"] = ["gradients", "input_gradients"]
        before = self.client.traffic.bytes_sent
        start = time.perf_counter()
        try:
            result = self.client.gradient(**request)
        except ProblemError as problem:
            if problem.of_overflow:
                return None
            raise
        seconds = time.perf_counter() - start
        self.tell(result, CallCost(seconds, self.client.traffic.bytes_sent - before))
        return result

    def tell(self, result: GradientResult | None, cost: CallCost) -> None:
        if self.listener:
            self.listener(result, cost)


class ServiceGradient(torch.autograd.Function):
    """apply(call, output, hidden_states, *call.tensors()) -> output

    output (.., L, H dv) is the attention output, computed by someone else. Backward hands dLoss/d output
    on to whoever computed it and gives the adapters their gradients from the service; hidden_states get
    theirs only if the call says so, else autograd has it from the computation of `output`.
    """

    @staticmethod
    def forward(
        ctx: Any, call: LayerCall, output: Tensor, hidden_states: Tensor, *adapters: Tensor
    ) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(hidden_states, *adapters)
        return output.view_as(output)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        call: LayerCall = ctx.call
        hidden_states, *adapters = ctx.saved_tensors
        _, output_needed, hidden_needed, *needed = ctx.needs_input_grad
        hidden_needed = hidden_needed and call.input_gradients
        grad_hidden = None
        result = call.gradient(hidden_states, adapters, grad)
        if result is not None:
            gradients = [result.gradients[name][part] for name, part in call.adapters]
            if hidden_needed:
                grad_hidden = result.input_gradients["hidden_states"]
        else:
            gradients = [torch.full_like(adapter, torch.nan) for adapter in adapters]
            if hidden_needed:
                grad_hidden = torch.full_like(hidden_states, torch.nan)
            call.tell(None, CallCost())
        wanted = [value if need else None for value, need in zip(gradients, needed, strict=True)]
        return (None, grad if output_needed else None, grad_hidden, *wanted)
