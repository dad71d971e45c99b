"""One attention module of a PEFT model whose forward pass leaves the LoRA gradients to the service."""

from __future__ import annotations

import inspect
from math import inf
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedError
from .function import CallCost, LayerCall, ServiceGradient
from .local import attention_output
from .peft_layer import read_projections
from .report import LayerReport

if TYPE_CHECKING:
    from .attaching import Handle

# Relative difference (Frobenius) between a layer's attention output and the formula that the service
# differentiates, above which it is another kind of attention and not a matter of rounding.
VERIFY_LIMIT = {
    torch.float64: 1e-6,
    torch.float32: 1e-3,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
# A difference may grow with the weights: every so many uses of a layer it is measured again.
VERIFY_EVERY = 100
IMPLEMENTATIONS = ("eager", "sdpa")
# What other attention modules have beside or between the projections.
FOREIGN = ("q_norm", "k_norm", "attn_logit_softcapping", "sinks")


class AttachedLayer:
    """One attention module with its forward pass replaced."""

    def __init__(self, handle: Handle, name: str, module: nn.Module):
        self.name = name
        self._handle = handle
        self._module: Any = module
        self._uses = 0
        self._installed = False
        for attribute in ("o_proj", "head_dim", "scaling", "config"):
            if not hasattr(module, attribute):
                raise UnsupportedError(
                    f"{name} ({type(module).__name__}) has no {attribute}: not of the Llama type"
                )
        for attribute in FOREIGN:
            if getattr(module, attribute, None) is not None:
                raise UnsupportedError(f"{name} ({type(module).__name__}) has {attribute}")
        if getattr(module, "attention_dropout", 0):
            raise UnsupportedError(f"{name} has dropout in its attention; set attention_dropout=0")
        if not getattr(module, "is_causal", True):
            raise UnsupportedError(f"{name} is not causal")
        if isinstance(getattr(module.forward, "__self__", None), AttachedLayer):
            raise ValueError(f"{name} is attached already; detach() the handle of that first")
        read_projections(module, name)
        self._original = module.forward
        self._had_own = "forward" in vars(module)
        self._signature = inspect.signature(self._original)

    def install(self) -> None:
        self._module.forward = self._forward
        self._guard = self._module.register_forward_pre_hook(_refuse_replicas)
        self._installed = True

    def remove(self) -> None:
        if not self._installed:
            return
        if self._had_own:
            self._module.forward = self._original
        else:
            del self._module.forward
        self._guard.remove()
        self._installed = False

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        projections = read_projections(self._module, self.name)
        if not (torch.is_grad_enabled() and projections.trainable):
            return self._original(*args, **kwargs)
        bound = self._signature.bind(*args, **kwargs)
        hidden_states: Tensor = bound.arguments["hidden_states"]
        call = self._call(hidden_states, projections.fields, bound.arguments)

        def tap(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            output, *rest = inputs
            # An overflow in half precision, which loss scaling will deal with, says nothing.
            if self._uses % VERIFY_EVERY == 0 and output.isfinite().all():
                self._verify(output, hidden_states, call)
            self._uses += 1
            output = ServiceGradient.apply(call, output, hidden_states, *call.tensors())
            return (output, *rest)

        if call.input_gradients:
            bound.arguments["hidden_states"] = hidden_states.detach()
        hook = self._module.o_proj.register_forward_pre_hook(tap)
        try:
            with projections.detached():
                return self._original(*bound.args, **bound.kwargs)
        finally:
            hook.remove()

    def _call(
        self, hidden_states: Tensor, fields: dict[str, dict[str, Any]], inputs: dict[str, Any]
    ) -> LayerCall:
        inputs = {**inputs.get("kwargs", {}), **inputs}
        batch, length, _ = hidden_states.shape
        self._refuse(inputs, length)
        cos, sin = (self._table(table, length) for table in inputs["position_embeddings"])
        lengths = self._handle._masks.key_lengths(inputs.get("attention_mask"), batch, length)
        if lengths and not self._handle.client.capabilities().key_lengths:
            raise UnsupportedError("The batch is padded and the service does not know key_lengths")
        head_dim: int = self._module.head_dim
        options = {
            **self._handle._next_options(),
            "num_attention_heads": fields["q_proj"]["weight"].shape[0] // head_dim,
            "num_key_value_heads": fields["k_proj"]["weight"].shape[0] // head_dim,
            "scaling": float(self._module.scaling),
            "is_causal": True,
            "cos": cos,
            "sin": sin,
        }
        if lengths:
            options["key_lengths"] = lengths
        return LayerCall(
            client=self._handle.client,
            projections=fields,
            options=options,
            input_gradients=self._handle._input_gradients,
            listener=self._listen,
        )

    def _refuse(self, inputs: dict[str, Any], length: int) -> None:
        config = self._module.config
        implementation = getattr(config, "_attn_implementation", "eager")
        if implementation not in IMPLEMENTATIONS:
            raise UnsupportedError(
                f"{self.name}: attn_implementation={implementation!r}; supported are "
                + " and ".join(IMPLEMENTATIONS)
            )
        window = getattr(self._module, "sliding_window", getattr(config, "sliding_window", None))
        if window is not None and window < length:
            raise UnsupportedError(
                f"{self.name} has a sliding window of {window}, shorter than {length}"
            )
        cache = inputs.get("past_key_values", inputs.get("past_key_value"))
        # The layer's own index: a cache that earlier layers have filled in this pass is no longer empty.
        if cache is not None and cache.get_seq_length(self._module.layer_idx) > 0:
            raise UnsupportedError(f"{self.name}: training with a filled key/value cache")
        if inputs.get("position_embeddings") is None:
            raise UnsupportedError(
                f"{self.name} gets no position_embeddings: not of the Llama type"
            )

    def _table(self, table: Tensor, length: int) -> Tensor:
        """cos or sin (B or 1, L, d) as the (L, d) of the service."""
        if table.shape[-2:] != (length, self._module.head_dim):
            raise UnsupportedError(
                f"{self.name}: rotary tables of shape {tuple(table.shape)} for heads of width "
                f"{self._module.head_dim}; partial rotary positions are not supported"
            )
        if table.ndim == 2:
            return table
        if table.shape[0] > 1 and not torch.equal(table, table[:1].expand_as(table)):
            raise UnsupportedError(f"{self.name}: positions differ between the items of a batch")
        return table[0]

    @torch.no_grad()
    def _verify(self, output: Tensor, hidden_states: Tensor, call: LayerCall) -> None:
        """Is the model's attention the one that the service differentiates? Costs one more forward."""
        names = inspect.signature(attention_output).parameters.keys()
        layer = {name: value for name, value in call.options.items() if name in names}
        precise = torch.promote_types(output.dtype, torch.float32)
        fields = {
            name: {
                key: value.to(precise) if isinstance(value, Tensor) else value
                for key, value in projection.items()
            }
            for name, projection in call.projections.items()
        }
        with torch.autocast(device_type=output.device.type, enabled=False):
            expected = attention_output(hidden_states.to(precise), fields, **layer)
        difference, norm = float((output - expected).norm()), float(expected.norm())
        limit = VERIFY_LIMIT[output.dtype]
        if not difference <= limit * norm:
            relative = difference / norm if norm else inf
            raise UnsupportedError(
                f"{self.name} ({type(self._module).__name__}) computes other attention than the service: "
                f"its output differs by {relative:.1e} (relative; {limit:.0e} is allowed for rounding)"
            )

    def _listen(self, result: Any, cost: CallCost) -> None:
        self._handle._report(LayerReport.of(self.name, result, cost))


def _refuse_replicas(module: nn.Module, _: Any) -> None:
    """A replica of nn.DataParallel would run the forward pass of the module that it was copied from."""
    if getattr(module, "_is_replica", False):
        raise UnsupportedError("nn.DataParallel is not supported; use DistributedDataParallel")
