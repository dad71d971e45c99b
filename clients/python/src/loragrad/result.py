"""Answers of the service as objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from .tensors import Tensor

T = TypeVar("T")
#: By projection, then "lora_A" (r, in) and "lora_B" (out, r); or of attention states by "query", "key",
#: "value" and "sinks", each a tensor.
Gradients = dict[str, Any]


@dataclass(frozen=True)
class Estimate:
    """Measured on sampled rows. Frobenius norms of the error over that of the tensor."""

    relative: float
    #: The error is at most this with probability `confidence`.
    upper: float
    confidence: float
    standard_error: float
    rows_sampled: int


@dataclass(frozen=True)
class Certificate:
    """A worst-case bound, always true: on the Frobenius norm of the error, and that over the tensor's."""

    frobenius: float
    relative: float


@dataclass(frozen=True)
class TensorError:
    """How far one tensor, as it was sent, may be from the truth.

    `estimate` is None when it was not measured: where everything is computed in float64 there is nothing
    more precise to compare with. `certificate` is None when there is none or it is void.
    """

    estimate: Estimate | None
    certificate: Certificate | None

    @property
    def bound(self) -> float | None:
        """The smaller of the two upper limits, relative; None when there is neither."""
        limits = []
        if self.estimate:
            limits.append(self.estimate.upper)
        if self.certificate:
            limits.append(self.certificate.relative)
        return min(limits, default=None)


@dataclass(frozen=True)
class Threshold:
    """On which side of the efficiency threshold of arXiv 2406.03136 the input lies."""

    #: Largest absolute entry of the scaled queries and keys.
    gamma: float
    #: sqrt(ln L)
    limit: float
    #: gamma / limit; None for L = 1.
    ratio: float | None
    below_threshold: bool
    sequence_length: int
    head_dim_over_log_length: float | None
    norms: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """The verdict without the gradient."""

    #: "exact", "low_rank" or "sampled"
    method: str
    #: Why this method, in one sentence.
    reason: str
    threshold: Threshold
    plan: Mapping[str, Any]
    timings_ms: Mapping[str, float]
    #: The answer as it came, without its tensors.
    raw: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ComputedResult(PlanResult):
    """What the answers of all computations share."""

    #: Whether another kernel than the first choice had to compute it; see `reason`.
    fallback: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class ForwardResult(ComputedResult):
    """The attention output (B, Lq, H dv), before o_proj."""

    attention_output: Tensor
    error: TensorError


@dataclass(frozen=True, kw_only=True)
class GradientResult(ComputedResult):
    """The gradients, with error figures by tensor: `error["q_proj.lora_A"]`, `error["query"]`."""

    gradients: Gradients
    #: By name of the states; empty unless asked for.
    input_gradients: dict[str, Tensor]
    attention_output: Tensor | None
    #: 1/2 ||O - target||^2 when a target was given.
    loss: float | None
    #: "weights": tolerance and errors of query, key and value are those of X^T dQ, X^T dK, X^T dV.
    error_of: str
    error: Mapping[str, TensorError]

    @property
    def error_bound(self) -> float | None:
        """The largest relative error bound of the tensors that have one; None when none has."""
        bounds = [error.bound for error in self.error.values() if error.bound is not None]
        return max(bounds, default=None)


def known(cls: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass from a map that may hold more than it knows: services grow."""
    names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    return cls(**{key: value for key, value in values.items() if key in names})


def tensor_error(values: Mapping[str, Any]) -> TensorError:
    estimate, certificate = values.get("estimate"), values.get("certificate")
    return TensorError(
        estimate and known(Estimate, estimate), certificate and known(Certificate, certificate)
    )
