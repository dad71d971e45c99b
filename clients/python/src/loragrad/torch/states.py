"""The autograd function over attention states: computed here, differentiated by the service."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..client import Client
from ..errors import LoragradError, ProblemError
from .report import CallCost, LayerReport


@dataclass(frozen=True)
class StatesCall:
    """One use of an attention layer: everything of the request but the tensors that autograd keeps."""

    client: Client
    #: Name of the layer, for reports and errors.
    layer: str
    #: (query, key, value, sinks) -> output (B, Lq, H, dv), and log_sum_exp (B, H, Lq) where it is known.
    attention: Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
    #: Fields of the request: masks, scaling, softcap, method, tolerance, seed.
    fields: Mapping[str, Any]
    listener: Callable[[LayerReport], None]
    #: Names of the tensors of the request's `inputs`, in the order in which they follow the states.
    inputs: tuple[str, ...] = ()

    def gradients(self, tensors: Mapping[str, Any]) -> Mapping[str, Tensor] | None:
        """Those of query, key, value and sinks, in the layout of the service. None: something overflows.

        Loss scaling relies on overflow coming out as it went in; the service refuses it.
        """
        if not torch.isfinite(tensors["grad_output"]).all():
            self.listener(LayerReport.skipped(self.layer, "The upstream gradient is not finite."))
            return None
        before = self.client.traffic.bytes_sent
        start = time.perf_counter()
        try:
            result = self.client.gradient(**self.fields, **tensors)
        except LoragradError as error:
            if isinstance(error, ProblemError) and error.of_overflow:
                self.listener(LayerReport.skipped(self.layer, error.detail))
                return None
            error.layer = self.layer
            raise
        seconds = time.perf_counter() - start
        cost = CallCost(seconds, self.client.traffic.bytes_sent - before)
        self.listener(LayerReport.of(self.layer, result, cost))
        return result.gradients


class ServiceAttention(torch.autograd.Function):
    """apply(call, query, key, value, sinks, *inputs) -> output (B, Lq, H, dv)

    query (B, H, Lq, d), key (B, Hkv, Lk, d), value (B, Hkv, Lk, dv) as Transformers has them, sinks (H)
    or None. Autograd saves them, so that a change in place before the backward pass is an error.
    """

    @staticmethod
    def forward(
        ctx: Any,
        call: StatesCall,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        *inputs: Tensor,
    ) -> Tensor:
        output, log_sum_exp = call.attention(query, key, value, sinks)
        ctx.call = call
        ctx.save_for_backward(query, key, value, sinks, log_sum_exp, *inputs)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        call: StatesCall = ctx.call
        query, key, value, sinks, log_sum_exp, *inputs = ctx.saved_tensors
        tensors: dict[str, Any] = {
            "query": query.transpose(1, 2),
            "key": key.transpose(1, 2),
            "value": value.transpose(1, 2),
            "grad_output": grad,
        }
        if sinks is not None:
            tensors["sinks"] = sinks
        if log_sum_exp is not None:
            tensors["log_sum_exp"] = log_sum_exp
        if inputs:
            # Error figures have no use for more digits.
            halves = (tensor.to(torch.bfloat16) for tensor in inputs)
            tensors["inputs"] = dict(zip(call.inputs, halves, strict=True))
        gradients = call.gradients(tensors)
        unasked = (None,) * len(inputs)
        if gradients is None:
            saved = (query, key, value, sinks)
            nans = (t if t is None else torch.full_like(t, torch.nan) for t in saved)
            return (None, *nans, *unasked)
        states = (gradients[name].transpose(1, 2) for name in ("query", "key", "value"))
        return (None, *states, gradients.get("sinks"), *unasked)
