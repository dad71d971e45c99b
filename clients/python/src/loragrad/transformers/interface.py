"""What Transformers calls for attn_implementation="loragrad": attention and mask functions.

Forward is the local attention. Where gradients flow and the layer is long enough, backward is the
service's. A call that holds anything unknown is refused, with gradients or without: nothing is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask, sdpa_mask

from ..errors import UnsupportedError
from ..torch.report import LayerReport
from ..torch.states import ServiceAttention, StatesCall
from .local import causal_mask, eager, fused, fused_with_sums, with_equal_weights
from .masks import Indescribable, describe
from .session import ROUTES, Session

IMPLEMENTATION = "loragrad"
#: For models that had "eager": their masks are never left out, and rows that see no key are means.
EAGER_IMPLEMENTATION = "loragrad_eager"
#: Keywords of the model's forward pass that reach its attention and do not concern it: what they say is
#: in the mask already, or is for other parts of the model.
UNCONCERNED = frozenset(
    {
        "cache_position",
        "num_items_in_batch",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "sliding_window",
        "use_cache",
    }
)


def install() -> None:
    """Makes the implementations known to Transformers; once or more often."""
    AttentionInterface.register(IMPLEMENTATION, attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    AttentionInterface.register(EAGER_IMPLEMENTATION, _eager_attention)
    # A layer with an attention of its own adds it to its logits, as it is.
    AttentionMaskInterface.register(EAGER_IMPLEMENTATION, eager_mask)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """(B, Lq, H, dv), and no weights. UnsupportedError for calls that it cannot answer rightly.

    query (B, H, Lq, d), key (B, Hkv, Lk, d), value (B, Hkv, Lk, dv), as sdpa would take them:
    attention_mask (B or 1, 1, Lq, Lk) is True where a key is seen, None where `is_causal` says it all.
    softcap and s_aux (H), sinks, are for eager attention.
    """
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    if softcap is None and s_aux is None:
        return _attention(module, query, key, value, attention_mask, is_causal=is_causal, **others)
    mask = causal_mask(query, key) if attention_mask is None and is_causal else attention_mask
    return _attention(module, query, key, value, mask, softcap=softcap, sinks=s_aux, **others)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    is_causal: object = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """As eager attention, which leaves causality to the mask alone."""
    states = (query, key, value, _seen(attention_mask))
    return _attention(module, *states, softcap=softcap, sinks=s_aux, **others)


def _seen(mask: Tensor | None) -> Tensor | None:
    """Of a mask that eager attention adds to its logits, where keys are seen; any other as it is."""
    if not isinstance(mask, Tensor) or not mask.is_floating_point():
        return mask
    seen = mask == 0
    hidden = mask == torch.finfo(mask.dtype).min
    return seen if bool((seen | hidden).all()) else mask


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """:param is_causal: None for eager attention"""
    session, layer = ROUTES.of(module)
    _refuse_unknown(layer, mask, scaling, dropout, others)
    if is_causal is None:
        compute = partial(_eager, module, mask, scaling=scaling, softcap=softcap)
    else:
        compute = partial(_fused, module, mask, scaling=scaling, is_causal=is_causal)
    states = (query, key, value, sinks)
    differentiated = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in states
    )
    length = sqrt(query.shape[2] * key.shape[2])
    if session is None or not differentiated:
        return compute(*states), None
    if length < session.minimum_length:
        return _watched(compute(*states), session, layer, length), None
    try:
        masks = describe(mask, bool(is_causal), query, key)
    except Indescribable as error:
        raise _refused(layer, f"the service does not know this attention mask: {error}") from None
    fields = session.fields(layer, {"scaling": scaling, "softcap": softcap, **masks})
    known = None
    if is_causal is not None and mask is None and session.serves("log_sum_exp"):
        known = partial(fused_with_sums, scaling=scaling, is_causal=is_causal)
    attend = partial(_with_sums, compute, known)
    inputs = session.projection_inputs(module, {"query": query, "key": key, "value": value})
    call = StatesCall(session.client, layer, attend, fields, session.report, tuple(inputs))
    output = ServiceAttention.apply(call, *states, *inputs.values())
    # With sinks, a row that sees no key has zeros in eager attention too: the sink takes all.
    if is_causal is None and mask is not None and sinks is None:
        output = with_equal_weights(
            output, query, key, value, mask, scaling=scaling, softcap=softcap
        )
    return output, None


def _fused(
    module: nn.Module,
    mask: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _: None,
    **options: Any,
) -> Tensor:
    return fused(module, query, key, value, mask, **options)


def _eager(
    module: nn.Module,
    mask: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None,
    **options: Any,
) -> Tensor:
    return eager(module, query, key, value, mask, sinks=sinks, **options)


def _with_sums(
    compute: Callable[..., Tensor],
    known: Callable[..., tuple[Tensor, Tensor] | None] | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """:param known: output and sums, where there may be a kernel that tells them"""
    both = known and known(query, key, value)
    return both or (compute(query, key, value, sinks), None)


def _watched(output: Tensor, session: Session, layer: str, length: float) -> Tensor:
    """Reports the layer when its backward pass comes by."""
    why = (
        f"{length:.0f} tokens are fewer than minimum_length = {session.minimum_length}: below that "
        "asking takes longer than computing."
    )
    report = LayerReport(layer, "local", why)
    output.register_hook(lambda _: session.report(report))  # type: ignore[no-untyped-call]
    return output


def _refuse_unknown(
    layer: str,
    mask: object,
    scaling: object,
    dropout: float,
    others: dict[str, Any],
) -> None:
    if dropout:
        raise _refused(
            layer,
            f"dropout of attention weights ({dropout}) is random and its pattern stays in this process; "
            "set attention_dropout=0 in the model's config (LoRA's own dropout is supported)",
        )
    if others.pop("output_attentions", None):
        raise _refused(
            layer, "attention weights (output_attentions) are asked for and none are computed"
        )
    if isinstance(scaling, Tensor) and scaling.requires_grad:
        raise _refused(layer, "its scaling is trained; the service gives no gradient of it")
    if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool):
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise _refused(
            layer, f"its attention mask is of {kind}; known are 2D masks, and 4D ones of bool"
        )
    unknown = [
        name for name, value in others.items() if value is not None and name not in UNCONCERNED
    ]
    if unknown:
        raise _refused(
            layer, f"its attention takes {', '.join(sorted(unknown))}, unknown to loragrad"
        )


def _refused(layer: str, reason: str) -> UnsupportedError:
    error = UnsupportedError(
        f"{reason}. model.set_attn_implementation('sdpa') or 'eager' trains without the service."
    )
    error.layer = layer
    return error
