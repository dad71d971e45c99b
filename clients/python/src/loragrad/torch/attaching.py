"""`attach`: the attention layers of a PEFT model get their LoRA gradients from the service.

The model's own forward pass runs as it always does, with two changes. The adapters of q_proj, k_proj and
v_proj take part in it detached, so that autograd does not differentiate them; and where the attention
output enters o_proj a function stands in the graph that changes nothing on the way forward, and on the
way back posts dLoss/dO and gives the adapters what the service answers. The gradient of hidden_states
comes from the service as well when it offers that; otherwise autograd computes it here, exactly.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ..client import Client
from ..errors import UnsupportedError
from .function import CallCost, LayerCall, ServiceGradient
from .layer import Place, serves, solver_options
from .local import attention_output
from .masks import MaskReader
from .peft_layer import has_adapter, read_projections
from .report import LayerReport, Step

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


def attach(
    model: nn.Module,
    url: str | Client,
    *,
    method: str = "auto",
    tolerance: float | None = None,
    features: int | None = None,
    correction: bool = False,
    seed: int = 0,
    input_gradients: Place = "auto",
    on_report: Callable[[LayerReport], None] | None = None,
) -> Handle:
    """Lets the service compute the LoRA gradients of every attention layer with an adapted q, k or v.

    Supported: decoder layers of the Llama type in Transformers (q_proj, k_proj, v_proj, o_proj,
    rotary positions, grouped heads, causal), one active LoRA adapter, padding on the right, the "eager"
    and "sdpa" implementations, gradient checkpointing, autocast. Everything else in the model, other
    adapters included, is left alone. Each layer's output is compared with the formula that the service
    differentiates, in its first use and every hundredth after that.

    UnsupportedError is raised, here or in the forward pass, for: dropout in LoRA or attention, DoRA and
    other variants, several active or merged adapters, trained biases or weights in q_proj, k_proj or
    v_proj, quantised weights, left padding, packed sequences, sliding windows, other masks, norms between
    projection and scores, soft caps, sinks, partial or interleaved rotary positions, flash and flex
    attention, training
    with a filled cache.

    :param url: of the service, or a Client.
    :param tolerance: relative error (Frobenius) allowed for every gradient tensor, at 99 %
        confidence; 0.01 when left out.
    :param features: low-rank with so many features, whatever the error if no tolerance is given.
    :param correction: make low-rank gradients unbiased; every call draws with a seed of its own.
    :param input_gradients: who computes dLoss/d hidden_states: "service", "local", or "auto", the
        service when it can.
    :param on_report: called after each layer's backward pass.
    """
    client = url if isinstance(url, Client) else Client(url)
    capabilities = client.capabilities()
    if not capabilities.rotary:
        raise UnsupportedError(
            f"The service at {client.url} (version {capabilities.version}) does not know rotary positions"
        )
    options = solver_options(method, tolerance, features, correction)
    handle = Handle(
        client, options, seed, serves(client, "input_gradients", input_gradients), on_report
    )
    for name, module in model.named_modules():
        if has_adapter(module):
            handle._layers.append(_AttachedLayer(handle, name, module))
    if not handle._layers:
        raise ValueError(
            "The model has no attention layer with a LoRA adapter on q_proj, k_proj or v_proj"
        )
    # Only when all layers have passed their checks: a model is attached as a whole or not at all.
    for layer in handle._layers:
        layer.install()
    return handle


class Handle:
    """An attached model's reports. `detach()`, or leaving a `with` block, gives the model back."""

    def __init__(
        self,
        client: Client,
        options: dict[str, Any],
        seed: int,
        input_gradients: bool,
        on_report: Callable[[LayerReport], None] | None,
    ):
        self.client = client
        #: The latest backward pass, complete when it has returned. A layer's second report begins a new
        #: step, so a layer that is used twice in one pass shows its last use only: see `on_report`.
        self.last_step = Step()
        self._options = options
        self._seed = seed
        self._calls = 0
        self._input_gradients = input_gradients
        self._on_report = on_report
        self._masks = MaskReader()
        self._layers: list[_AttachedLayer] = []

    @property
    def layers(self) -> list[str]:
        """Names of the attached layers."""
        return [layer.name for layer in self._layers]

    def detach(self) -> None:
        """The model is as it was before. May be called twice."""
        for layer in self._layers:
            layer.remove()

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def _next_options(self) -> dict[str, Any]:
        """Every call samples other rows: errors of different steps are to be independent."""
        self._calls += 1
        return {**self._options, "seed": (self._seed + self._calls) % 2**32}

    def _report(self, report: LayerReport) -> None:
        if report.layer in self.last_step.layers:
            self.last_step = Step()
        self.last_step.layers[report.layer] = report
        if self._on_report:
            self._on_report(report)


class _AttachedLayer:
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
        read_projections(module, name)
        self._original = module.forward
        self._had_own = "forward" in vars(module)
        self._signature = inspect.signature(self._original)

    def install(self) -> None:
        self._module.forward = self._forward
        self._installed = True

    def remove(self) -> None:
        if not self._installed:
            return
        if self._had_own:
            self._module.forward = self._original
        else:
            del self._module.forward
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
            if self._uses % VERIFY_EVERY == 0:
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
        difference = float((output - expected).norm() / expected.norm())
        limit = VERIFY_LIMIT[output.dtype]
        if not difference <= limit:
            raise UnsupportedError(
                f"{self.name} ({type(self._module).__name__}) computes other attention than the service: "
                f"its output differs by {difference:.1e} (relative; {limit:.0e} is allowed for rounding)"
            )

    def _listen(self, result: Any, cost: CallCost) -> None:
        self._handle._report(LayerReport.of(self.name, result, cost))
