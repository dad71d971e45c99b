"""`attach`: the attention layers of a PEFT model get their LoRA gradients from the service.

The model's own forward pass runs as it always does, with two changes. The adapters of q_proj, k_proj and
v_proj take part in it detached, so that autograd does not differentiate them; and where the attention
output enters o_proj a function stands in the graph that changes nothing on the way forward, and on the
way back posts dLoss/dO and gives the adapters what the service answers. The gradient of hidden_states
comes from the service as well when it offers that; otherwise autograd computes it here, exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import nn

from ..client import Client
from ..errors import UnsupportedError
from .layer import Place, serves, solver_options
from .masks import MaskReader
from .report import LayerReport, Step

if TYPE_CHECKING:
    from .attached_layer import AttachedLayer


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
    attention, training with a filled cache, nn.DataParallel.

    :param url: of the service, or a Client.
    :param tolerance: relative error (Frobenius) allowed for every gradient tensor, at 99 %
        confidence; 0.01 when left out.
    :param features: low-rank with so many features, whatever the error if no tolerance is given.
    :param correction: make low-rank gradients unbiased; every call draws with a seed of its own.
    :param input_gradients: who computes dLoss/d hidden_states: "service", "local", or "auto", the
        service when it can.
    :param on_report: called after each layer's backward pass.
    """
    try:
        from .attached_layer import AttachedLayer
        from .peft_layer import has_adapter
    except ModuleNotFoundError as error:
        raise ImportError("attach needs PEFT: pip install 'loragrad[peft]'") from error
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
            handle._layers.append(AttachedLayer(handle, name, module))
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
        self._layers: list[AttachedLayer] = []

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
