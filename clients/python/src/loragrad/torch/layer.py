"""`attention`: one attention layer for models of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ..client import Client
from ..errors import UnsupportedError
from ..request import PROJECTIONS, Projection
from .function import LayerCall, Listener, ServiceGradient
from .local import attention_output

Place = Literal["auto", "service", "local"]


def attention(
    client: Client,
    hidden_states: Tensor,
    q_proj: Projection,
    k_proj: Projection,
    v_proj: Projection,
    *,
    num_attention_heads: int = 1,
    num_key_value_heads: int | None = None,
    scaling: float | None = None,
    is_causal: bool = False,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    key_lengths: Sequence[int] | None = None,
    method: str = "auto",
    tolerance: float | None = None,
    features: int | None = None,
    correction: bool = False,
    seed: int = 0,
    forward: Place = "auto",
    input_gradients: Place = "auto",
    listener: Listener | None = None,
) -> Tensor:
    """Attention output (.., L, H dv) before o_proj, differentiable in hidden_states and the adapters.

    Shapes and names are those of `loragrad.Request`. Weights and biases must be frozen.

    :param forward: who computes the output: POST /forward, or PyTorch here. "auto": the service when it
        can.
    :param input_gradients: who computes the gradient of hidden_states. "auto": the service when it can.
        "local" differentiates the layer here, exactly, and so computes the output here too.
    :param listener: called with the answer of each backward pass and its cost.
    """
    layer: dict[str, Any] = {
        "num_attention_heads": num_attention_heads,
        "num_key_value_heads": num_key_value_heads,
        "scaling": scaling,
        "is_causal": is_causal,
        "cos": cos,
        "sin": sin,
        "key_lengths": key_lengths,
    }
    projections = {"q_proj": q_proj, "k_proj": k_proj, "v_proj": v_proj}
    differentiated = torch.is_grad_enabled() and hidden_states.requires_grad
    serves_inputs = differentiated and serves(client, "input_gradients", input_gradients)
    if differentiated and not serves_inputs and forward == "service":
        raise UnsupportedError(
            "forward='service' leaves nothing here to differentiate: the gradient of hidden_states "
            "has to come from the service too (input_gradients)"
        )
    call = LayerCall(
        client=client,
        projections=projections,
        options={
            **{name: value for name, value in layer.items() if value is not None},
            **solver_options(method, tolerance, features, correction),
            "seed": seed,
        },
        input_gradients=serves_inputs,
        listener=listener,
    )
    fixed = _detached(projections)
    if differentiated and not serves_inputs:
        # The graph below this output leads to hidden_states alone.
        output = attention_output(hidden_states, fixed, **layer)
    elif serves(client, "forward", forward):
        request: dict[str, Any] = {**call.options, **fixed}
        # That is a matter of gradients.
        request.pop("correction", None)
        answer = client.forward(hidden_states=hidden_states.detach(), **request)
        output = cast(Tensor, answer.attention_output)
    else:
        with torch.no_grad():
            output = attention_output(hidden_states, fixed, **layer)
    return ServiceGradient.apply(call, output, hidden_states, *call.tensors())  # type: ignore[no-any-return]


def serves(client: Client, capability: Literal["forward", "input_gradients"], place: Place) -> bool:
    """Whether the service is to do it. UnsupportedError when it is told to and cannot."""
    if place == "local":
        return False
    able: bool = getattr(client.capabilities(), capability)
    if place == "service" and not able:
        raise UnsupportedError(f"The service at {client.url} does not offer {capability}")
    return able


def solver_options(
    method: str, tolerance: float | None, features: int | None, correction: bool
) -> dict[str, Any]:
    """Those that were chosen: a service that does not know the others need not."""
    options: dict[str, Any] = {"method": method}
    if tolerance is not None:
        options["tolerance"] = tolerance
    if features is not None:
        options["features"] = features
    if correction:
        options["correction"] = True
    return options


def _detached(projections: Mapping[str, Projection]) -> dict[str, dict[str, Any]]:
    """Frozen tensors stay the objects that they are: by those their hashes are remembered."""
    return {
        name: {
            key: value.detach() if isinstance(value, Tensor) and value.requires_grad else value
            for key, value in projections[name].items()
        }
        for name in PROJECTIONS
    }
