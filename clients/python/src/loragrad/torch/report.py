"""What a training step cost and how exact it was, for a trainer's log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..result import GradientResult, TensorError, Threshold


@dataclass(frozen=True)
class CallCost:
    """Of one call: wall-clock seconds, and bytes of its body and of what was uploaded for it."""

    seconds: float = 0.0
    bytes_sent: int = 0


@dataclass(frozen=True)
class LayerReport:
    """One backward pass of one attention layer."""

    layer: str
    #: That of the service ("exact", "low_rank", ...), "local" when the layer was differentiated here, or
    #: "skipped" when its gradients are NaN since some number was, or was too large for its dtype.
    method: str
    reason: str
    cost: CallCost = CallCost()
    fallback: bool = False
    #: "weights": errors are those of the projections' weights; else of the gradients of the states.
    error_of: str = "gradients"
    #: By tensor: "query", "key", "value", "sinks".
    error: Mapping[str, TensorError] = field(default_factory=dict)
    #: Largest relative error bound of its gradients; None when none has one.
    error_bound: float | None = None
    threshold: Threshold | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, layer: str, result: GradientResult, cost: CallCost) -> LayerReport:
        return cls(
            layer=layer,
            method=result.method,
            reason=result.reason,
            cost=cost,
            fallback=result.fallback,
            error_of=result.error_of,
            error=result.error,
            error_bound=result.error_bound,
            threshold=result.threshold,
            timings_ms=result.timings_ms,
        )

    @classmethod
    def skipped(cls, layer: str, why: str) -> LayerReport:
        return cls(layer, "skipped", f"{why} The gradients are NaN, as loss scaling expects.")


@dataclass
class Step:
    """One backward pass through a model: its layers, last one first."""

    layers: dict[str, LayerReport] = field(default_factory=dict)

    @property
    def methods(self) -> Counter[str]:
        """How many layers each method computed."""
        return Counter(report.method for report in self.layers.values())

    @property
    def fallbacks(self) -> int:
        return sum(report.fallback for report in self.layers.values())

    @property
    def error_bound(self) -> float | None:
        """The largest relative error bound of all layers."""
        bounds = [item.error_bound for item in self.layers.values() if item.error_bound is not None]
        return max(bounds, default=None)

    @property
    def seconds(self) -> float:
        """Spent waiting for the service."""
        return sum(report.cost.seconds for report in self.layers.values())

    @property
    def bytes_sent(self) -> int:
        return sum(report.cost.bytes_sent for report in self.layers.values())

    def metrics(self, prefix: str = "loragrad/") -> dict[str, float]:
        """Flat numbers for wandb, TensorBoard and the like."""
        numbers: dict[str, float] = {f"layers_{name}": n for name, n in self.methods.items()}
        numbers |= {
            "fallbacks": self.fallbacks,
            "seconds": self.seconds,
            "bytes_sent": self.bytes_sent,
        }
        if self.error_bound is not None:
            numbers["error_bound"] = self.error_bound
        return {prefix + name: value for name, value in numbers.items()}

    def __str__(self) -> str:
        methods = ", ".join(f"{count} {name}" for name, count in self.methods.items())
        bound = "none" if self.error_bound is None else f"{self.error_bound:.1e}"
        megabytes = self.bytes_sent / 1e6
        return f"{methods}; error bound {bound}; {self.seconds:.2f} s; {megabytes:.2f} MB sent"
