"""The body of a request in the names of PEFT and Transformers, with numpy or torch tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from .tensors import Tensor, is_tensor

PROJECTIONS = ("q_proj", "k_proj", "v_proj")
#: Fields that are numbers, however they are held.
_INTEGERS = ("window", "key_lengths", "first_keys", "sequence_lengths")


class _Weight(TypedDict):
    weight: Tensor


class Projection(_Weight, total=False):
    """A frozen weight (out, in), with or without a LoRA adapter of rank r.

    `bias` (out), `lora_A` (r, in), `lora_B` (out, r). The adapter is scaled by `lora_alpha` / r, or by
    `lora_alpha` / sqrt(r) with `use_rslora`; lora_alpha is r by default.
    """

    bias: Tensor | None
    lora_A: Tensor | None
    lora_B: Tensor | None
    lora_alpha: float
    use_rslora: bool


class Inputs(TypedDict, total=False):
    """What entered the projections of attention states: rows (B, L, d_in) for each of query, key, value.

    hidden_states: the same for all three, in place of them.
    cos, sin: the rotary positions of queries and keys, (L, r) or (B, L, r), r up to d.
    """

    hidden_states: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    cos: Tensor
    sin: Tensor


class Request(TypedDict, total=False):
    """The tensors and options of one attention layer, from hidden states or from attention states.

    B batch items (the leading B may be left out everywhere), Lq and Lk rows, H query heads and Hkv
    key/value heads of width d (values: dv).

    query (B, Lq, H, d), key (B, Lk, Hkv, d), value (B, Lk, Hkv, dv): projected, normalised and rotated
        already; in place of hidden states, projections, numbers of heads and rotary tables. Targets and
        outputs then have the shape (B, Lq, H, dv).

    hidden_states: (B, L, d_in), or for cross-attention query_states (B, Lq, d_in), key_states and
        value_states (B, Lk, d_in).
    q_proj, k_proj, v_proj: weights (H d, d_in), (Hkv d, d_in), (Hkv dv, d_in).
    scaling: beta in softmax(beta Q K^T); 1 / sqrt(d) by default.
    cos, sin: rotary positions (L, r) or (B, L, r), r up to d, as Transformers computes them.
    is_causal: row i sees the keys 0 to i.
    window: [left, right], row i sees the keys i - left to i + right; -1 is no limit.
    key_lengths: for each batch item how many keys count, from the first; the rest is padding.
    first_keys: for each batch item the first key that counts; those before are padding.
    sequence_lengths: of packed sequences, one list or one for each batch item; rows see keys of their
        own sequence only.
    softcap: c in S = c tanh(beta Q K^T / c).
    sinks: (H), one more logit for each head in the sum of the softmax.
    target: (B, Lq, H dv), the objective is 1/2 ||O - target||^2; or grad_output: dLoss/dO, same shape.
    method: "auto", "exact", "low_rank" or "sampled"; tolerance: relative error in the Frobenius norm
        allowed for every gradient tensor; keys, features, correction, seed: see the documentation of
        the service.
    log_sum_exp, attention_output: (B, H, Lq) and (B, Lq, H, dv), what the forward pass of attention
        states has.
    inputs: what attention states were projected from; errors and tolerance of the sampled method are
        then those of the projections' weights.
    outputs: "gradients", "attention_output", "input_gradients".
    """

    hidden_states: Tensor
    query_states: Tensor
    key_states: Tensor
    value_states: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    q_proj: Projection
    k_proj: Projection
    v_proj: Projection
    num_attention_heads: int
    num_key_value_heads: int
    scaling: float
    is_causal: bool
    cos: Tensor
    sin: Tensor
    window: Sequence[int]
    key_lengths: Sequence[int]
    first_keys: Sequence[int]
    sequence_lengths: Sequence[int] | Sequence[Sequence[int]]
    softcap: float
    sinks: Tensor
    target: Tensor
    grad_output: Tensor
    method: str
    tolerance: float
    keys: int
    features: int
    correction: bool
    seed: int
    log_sum_exp: Tensor
    attention_output: Tensor
    inputs: Inputs
    outputs: Sequence[str]


def is_frozen(path: tuple[str, ...]) -> bool:
    """Whether the tensor at this path stays the same from step to step of a training."""
    return path[-1] in ("weight", "bias", "cos", "sin")


def map_tensors(
    request: Mapping[str, Any], convert: Callable[[tuple[str, ...], Tensor], Any]
) -> dict[str, Any]:
    """The request with every tensor replaced and every None left out."""
    return _mapped((), request, convert)


def _mapped(
    path: tuple[str, ...],
    fields: Mapping[str, Any],
    convert: Callable[[tuple[str, ...], Tensor], Any],
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in fields.items():
        here = (*path, key)
        if key in _INTEGERS and value is not None:
            result[key] = _integers(value)
        elif is_tensor(value):
            result[key] = convert(here, value)
        elif isinstance(value, Mapping):
            result[key] = _mapped(here, value, convert)
        elif value is not None:
            result[key] = value
    return result


def _integers(values: Any) -> Any:
    """Lists of int, nested as the values are: of sequences, arrays or tensors."""
    if getattr(values, "shape", None) == () or not hasattr(values, "__iter__"):
        return int(values)
    return [_integers(value) for value in values]
