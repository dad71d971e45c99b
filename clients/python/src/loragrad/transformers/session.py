"""Which service a layer asks, with which options, and what it reported."""

from __future__ import annotations

import itertools
import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypedDict

from torch import Tensor, nn

from ..client import Client
from ..errors import ProblemError, UnsupportedError
from ..torch.report import LayerReport, Step
from .inputs import ProjectionInputs

_log = logging.getLogger("loragrad")

# Where asking a service on the same machine, with as many threads, takes as long as PyTorch's backward
# pass: docs/training.md has the measurement.
MINIMUM_LENGTH = 2048
# From here on `auto` may take the sampled method for heads of a trained model.
SAMPLED_LENGTH = 2048
#: Options that a request holds as they are.
_SENT = ("method", "tolerance", "keys")
# What the service says of an option that it does not take, whatever the tensors.
_OPTION_PROBLEMS = ("invalid-value", "unknown-key", "missing-key", "conflicting-keys")


class Options(TypedDict, total=False):
    """Keywords of `attach` and `register`.

    method: "auto", "exact" or "sampled"; "low_rank" is for adapters, see `loragrad.torch.attention`.
    tolerance: relative error (Frobenius) allowed for the gradients of query, key and value of every
        layer, at 99 % confidence; 0.01 when left out. With the sampled method it is about those of the
        projections' weights where they are recognised (`LayerReport.error_of`).
    keys: sampled with so many far keys on average, whatever the error if no tolerance is given.
    seed: of the keys that are drawn and the rows that error estimates look at; every call has its own.
    minimum_length: layers of fewer tokens (sqrt(Lq Lk)) are differentiated here, exactly.
    on_report: called with a `LayerReport` in each layer's backward pass.
    """

    method: str
    tolerance: float
    keys: int
    seed: int
    minimum_length: int
    on_report: Callable[[LayerReport], None]


class Session:
    """A service with its options, and the latest reports of the layers that it differentiates."""

    def __init__(self, url: str | Client, options: Options):
        self.client = url if isinstance(url, Client) else Client(url)
        self.minimum_length = options.get("minimum_length", MINIMUM_LENGTH)
        #: The latest backward pass, complete when it has returned. A layer's second report begins a new
        #: step, so a layer that is used twice in one pass shows its last use only: see `on_report`.
        self.last_step = Step()
        self._options = {name: options[name] for name in _SENT if name in options}  # type: ignore[literal-required]
        self._seeds = itertools.count(options.get("seed", 0))
        self._on_report = options.get("on_report")
        self._names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._kinds: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._inputs: ProjectionInputs | None = None
        unknown = options.keys() - Options.__annotations__.keys()
        if unknown:
            raise UnsupportedError(
                f"There is no option {', '.join(sorted(unknown))}; the options are "
                + ", ".join(Options.__annotations__)
            )
        if options.get("method") == "low_rank":
            raise UnsupportedError(
                'method = "low_rank" computes gradients of adapters, not of attention states; '
                'an attached model takes "auto", "exact" or "sampled"'
            )
        self._check()

    def _check(self) -> None:
        """Asks for the plan of a problem of two rows: what the options alone forbid fails here."""
        import torch

        if not self.client.capabilities().attention_states:
            raise UnsupportedError(
                f"The service at {self.client.url} does not take attention states (query, key, value): "
                "it is older than this client"
            )
        states = {name: torch.zeros(1, 2, 1, 2) for name in ("query", "key", "value")}
        try:
            self.client.plan(**states, **self._options)  # type: ignore[arg-type]
        except ProblemError as problem:
            if problem.kind in _OPTION_PROBLEMS:
                raise

    def name(self, module: nn.Module) -> str:
        """Of a layer. One of which nobody said how it is called is the n-th of its class."""
        with self._lock:
            if module not in self._names:
                kind = type(module).__name__
                self._names[module] = f"{kind}.{self._kinds[kind]}"
                self._kinds[kind] += 1
            return self._names[module]

    def fields(self, layer: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Of a request. Every call samples other rows: errors of different steps are independent."""
        fields = {name: value for name, value in fields.items() if value is not None}
        lacking = [name for name in fields if not self.serves(name)]
        if lacking:
            error = UnsupportedError(
                f"The service at {self.client.url} does not know {', '.join(sorted(lacking))}"
            )
            error.layer = layer
            raise error
        return {**self._options, **fields, "seed": next(self._seeds) % 2**32}

    def serves(self, field: str) -> bool:
        """Whether the service knows this field of a request."""
        return field in self.client.capabilities().fields

    def watch(self, model: nn.Module) -> None:
        """Keeps what enters the projections of the model where a method may be chosen that it serves."""
        if self._options.get("method", "auto") in ("auto", "sampled") and self.serves("inputs"):
            self._inputs = ProjectionInputs(model, self._may_sample)

    def unwatch(self) -> None:
        if self._inputs:
            self._inputs.remove()
        self._inputs = None

    def projection_inputs(
        self, layer: nn.Module, states: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """`inputs` of a request; none where errors are to be those of the states."""
        return self._inputs.take(layer, states) if self._inputs else {}

    def _may_sample(self, length: int) -> bool:
        least = 0 if self._options.get("method") == "sampled" else SAMPLED_LENGTH
        return length >= max(least, self.minimum_length)

    def report(self, report: LayerReport) -> None:
        with self._lock:
            if report.layer in self.last_step.layers:
                self.last_step = Step()
            self.last_step.layers[report.layer] = report
        if self._on_report:
            self._on_report(report)


class Routes:
    """Which session a module belongs to."""

    def __init__(self) -> None:
        self._attached: weakref.WeakKeyDictionary[nn.Module, Session] = weakref.WeakKeyDictionary()
        #: Of all modules that are not attached.
        self.registered: Session | None = None

    def attach(self, model: nn.Module, session: Session) -> None:
        for name, module in model.named_modules():
            self._attached[module] = session
            session._names[module] = name

    def detach(self, session: Session) -> None:
        for module in [module for module, owner in self._attached.items() if owner is session]:
            del self._attached[module]
        if self.registered is session:
            self.registered = None

    def attached(self, model: nn.Module) -> bool:
        return any(module in self._attached for module in model.modules())

    def of(self, module: nn.Module) -> tuple[Session | None, str]:
        """The session, None when there is none, and the name of the layer."""
        session = self._attached.get(module, self.registered)
        if session is None:
            _warn(type(module).__name__)
            return None, type(module).__name__
        return session, session.name(module)


@cache
def _warn(kind: str) -> None:
    _log.warning(
        "A %s has attn_implementation='loragrad' and no service: it is differentiated here. Call "
        "loragrad.transformers.register(url), or attach() a copy of an attached model by itself.",
        kind,
    )


ROUTES = Routes()
