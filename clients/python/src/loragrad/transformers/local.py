"""Attention computed here, by Transformers' own functions: fused, or eager as the model has it."""

from __future__ import annotations

import sys
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..errors import UnsupportedError


def fused(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None,
    is_causal: bool,
) -> Tensor:
    """(B, Lq, H, dv) from query (B, H, Lq, d), key (B, Hkv, Lk, d), value (B, Hkv, Lk, dv).

    :param mask: True where a key is seen; None: `is_causal` says it.
    """
    output, _ = sdpa_attention_forward(
        module, query, key, value, mask, scaling=scaling, is_causal=is_causal
    )
    return output


def fused_with_sums(
    query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None, is_causal: bool
) -> tuple[Tensor, Tensor] | None:
    """The same without a mask, and the logarithms of the rows' sums (B, H, Lq).

    The kernel for the CPU tells them, the one that sdpa takes there. None: not for these states; under
    autocast sdpa would round them first.
    """
    known = (
        query.is_cpu
        and not torch.is_autocast_enabled("cpu")
        and query.dtype == key.dtype == value.dtype
        and query.shape[-1] == value.shape[-1]
    )
    if not known:
        return None
    group = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(group, dim=1) for states in (key, value))
    output, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal and query.shape[2] > 1, scale=scaling
    )
    return output.transpose(1, 2), sums


def eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """The same by the function that the model has for it, with what PyTorch's kernel does not know.

    :param mask: True where a key is seen; None: every row sees every key.
    """
    # What the model leaves out it need not know.
    options = {"scaling": scaling, "softcap": softcap, "s_aux": sinks}
    options = {name: option for name, option in options.items() if option is not None}
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=query.dtype, device=mask.device)
        bias.masked_fill_(~mask, torch.finfo(query.dtype).min)
    output, _ = _eager_function(module)(module, query, key, value, bias, dropout=0.0, **options)
    return output  # type: ignore[no-any-return]


def _eager_function(module: nn.Module) -> Any:
    for kind in type(module).__mro__:
        function = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    raise UnsupportedError(f"{type(module).__name__} has no eager_attention_forward in its module")


def causal_mask(query: Tensor, key: Tensor) -> Tensor | None:
    """(1, 1, Lq, Lk); None for one row alone, the latest: it sees all keys, as in Transformers."""
    rows, keys = query.shape[2], key.shape[2]
    if rows == 1:
        return None
    return torch.ones(1, 1, rows, keys, dtype=torch.bool, device=query.device).tril()


def with_equal_weights(
    output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    *,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """The output (B, Lq, H, dv) with rows that see no key differentiated as eager attention has them.

    Its mask adds the smallest float to such a row, where all logits become equal: the row is the mean of
    all values, and autograd differentiates a softmax of equal logits. The service has zeros there.
    """
    unseeing = ~mask.any(dim=-1)[:, 0].expand(len(query), -1)  # (B, Lq)
    rows = unseeing.any(dim=0).nonzero()[:, 0]
    if not len(rows):
        return output
    group = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(group, dim=1) for states in (key, value))
    logits = query[:, :, rows] @ key.transpose(2, 3)
    logits = logits * (1 / sqrt(query.shape[-1]) if scaling is None else scaling)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    weights = torch.softmax(logits - logits.detach(), dim=-1, dtype=torch.float32)
    means = (weights.to(value.dtype) @ value).transpose(1, 2)
    return output.index_copy(
        1, rows, torch.where(unseeing[:, rows, None, None], means, output[:, rows])
    )
