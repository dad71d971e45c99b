"""The attention layer that the service differentiates, in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_output(
    hidden_states: Tensor,
    projections: Mapping[str, Mapping[str, Any]],
    *,
    num_attention_heads: int = 1,
    num_key_value_heads: int | None = None,
    scaling: float | None = None,
    is_causal: bool = False,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    key_lengths: Sequence[int] | None = None,
) -> Tensor:
    """O (.., L, H dv), in the dtype of hidden_states (.., L, d_in).

    :param projections: `q_proj`, `k_proj`, `v_proj`, each a `loragrad.Projection`.
    :param cos, sin: (L, r) or (.., L, r), r up to d, for the first channels of every head of Q and K.
    :param key_lengths: for each batch item the number of keys that are seen, from the first.
    """
    kv_heads = num_key_value_heads or num_attention_heads
    query = _heads(project(hidden_states, projections["q_proj"]), num_attention_heads)
    key = _heads(project(hidden_states, projections["k_proj"]), kv_heads)
    value = _heads(project(hidden_states, projections["v_proj"]), kv_heads)
    if cos is not None and sin is not None:
        # Tables of batch items are the same for all heads of an item.
        cos, sin = (table.unsqueeze(-3) if table.ndim > 2 else table for table in (cos, sin))
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
    group = num_attention_heads // kv_heads
    key, value = (states.repeat_interleave(group, dim=-3) for states in (key, value))
    # What the three were computed in may differ, as their weights may.
    dtype = torch.promote_types(torch.promote_types(query.dtype, key.dtype), value.dtype)
    mask = None
    if key_lengths is not None:
        mask = visible(key_lengths, hidden_states.shape[-2], is_causal, hidden_states.device)
    output = F.scaled_dot_product_attention(
        query.to(dtype),
        key.to(dtype),
        value.to(dtype),
        attn_mask=mask,
        is_causal=is_causal and mask is None,
        scale=scaling or 1 / sqrt(query.shape[-1]),
    )
    return output.transpose(-2, -3).flatten(-2).to(hidden_states.dtype)


def project(states: Tensor, projection: Mapping[str, Any]) -> Tensor:
    """states (.., in) -> (.., out): frozen weight, bias and adapter."""
    weight, bias = projection["weight"], projection.get("bias")
    dtype = torch.promote_types(states.dtype, weight.dtype)
    result = F.linear(states.to(dtype), weight.to(dtype), bias if bias is None else bias.to(dtype))
    lora_A, lora_B = projection.get("lora_A"), projection.get("lora_B")
    if lora_A is None or lora_B is None:
        return result
    # As PEFT: the adapter works in its own dtype, the sum has that of the frozen part.
    low = F.linear(F.linear(states.to(lora_A.dtype), lora_A), lora_B)
    return result + (low * adapter_scaling(projection)).to(dtype)


def adapter_scaling(projection: Mapping[str, Any]) -> float:
    rank: int = projection["lora_A"].shape[0]
    alpha: float = projection.get("lora_alpha", rank)
    return alpha / sqrt(rank) if projection.get("use_rslora") else alpha / rank


def visible(
    key_lengths: Sequence[int], length: int, is_causal: bool, device: torch.device
) -> Tensor:
    """(B, 1, L, L): which keys (last) each query sees."""
    position = torch.arange(length, device=device)
    limits = torch.as_tensor(list(key_lengths), device=device)
    mask = (position[None, :] < limits[:, None])[:, None, None, :].expand(-1, 1, length, -1)
    return mask & (position[:, None] >= position[None, :]) if is_causal else mask


def _heads(states: Tensor, heads: int) -> Tensor:
    """(.., L, heads width) -> (.., heads, L, width)"""
    return states.reshape(*states.shape[:-1], heads, -1).transpose(-2, -3)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on the first r channels of (.., L, d), by tables (.., L, r): the halves of r are
    the real and imaginary parts.
    """
    states, rest = states[..., : cos.shape[-1]], states[..., cos.shape[-1] :]
    real, imaginary = states.chunk(2, dim=-1)
    rotated_half = torch.cat((-imaginary, real), dim=-1)
    return torch.cat(((states * cos + rotated_half * sin).to(states.dtype), rest), dim=-1)
