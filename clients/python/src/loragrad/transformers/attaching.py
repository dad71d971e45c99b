"""`attach` for one model, `register` for all: both set Transformers' own switch and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..client import Client
from ..errors import UnsupportedError
from .callback import MetricsCallback
from .copying import OfOneModel
from .interface import EAGER_IMPLEMENTATION, IMPLEMENTATION, install
from .session import ROUTES, Options, Session

if TYPE_CHECKING:
    from transformers import Trainer
    from typing_extensions import Unpack


class Handle(Session, OfOneModel, AbstractContextManager["Handle"]):
    """Reports, and the way back: `detach()`, or leaving a `with` block."""

    def __init__(self, url: str | Client, options: Options):
        super().__init__(url, options)
        self._models: list[PreTrainedModel] = []
        self._before: list[tuple[PreTrainedConfig, str | None]] = []

    def detach(self) -> None:
        """The model is as it was before. May be called twice."""
        ROUTES.detach(self)
        self.unwatch()
        for config, implementation in self._before:
            config._attn_implementation_internal = implementation
        for model in self._models:
            vars(model).pop("_loragrad", None)
        self._models, self._before = [], []

    def callback(self) -> MetricsCallback:
        """For `Trainer(callbacks=[...])`: `last_step.metrics()` in `state.log_history`."""
        return MetricsCallback(self)

    def log_to(self, trainer: Trainer) -> None:
        """The callback put before those of TensorBoard, W&B and the like, so that they see it too."""
        trainer.callback_handler.callbacks.insert(0, self.callback())

    def _switch(self, model: nn.Module) -> None:
        self._models = list(_outermost(model))
        self._before = [
            (config, config._attn_implementation) for config in _configurations(self._models)
        ]
        for part in self._models:
            vars(part)["_loragrad"] = self
            part.set_attn_implementation(IMPLEMENTATION)
        switched = False
        for config, implementation in self._before:
            if config._attn_implementation == IMPLEMENTATION:
                switched = True
                if implementation == "eager":
                    config._attn_implementation_internal = EAGER_IMPLEMENTATION
        if not switched:
            raise UnsupportedError(f"{type(model).__name__}: Transformers cannot set its attention")
        ROUTES.attach(model, self)
        self.watch(model)

    def __exit__(self, *_: object) -> None:
        self.detach()


def attach(model: nn.Module, url: str | Client, **options: Unpack[Options]) -> Handle:
    """Lets the service differentiate the attention of every layer of a Transformers model.

    Any model whose layers take their attention from Transformers' AttentionInterface, with or without
    PEFT. Forward is the local attention; backward asks the service for the gradients of query, key and
    value (and sinks), and autograd does the rest: projections, adapters, norms, positions.

    Whatever a call of the attention holds that the service does not know raises UnsupportedError in
    the forward pass: dropout of attention weights, asked-for attention weights, position biases, masks
    other than causal, windows, padding and packed sequences. A model without AttentionInterface raises
    it here.

    :param url: of the service, or a Client.
    :param options: see `Options`; those that the service refuses raise here.
    """
    if ROUTES.attached(model):
        raise ValueError("The model is attached already; detach() that handle first")
    _refuse(model)
    handle = Handle(url, options)
    install()
    try:
        handle._switch(model)
    except BaseException:
        handle.detach()
        raise
    return handle


def register(url: str | Client, **options: Unpack[Options]) -> Handle:
    """Names the service for every model with attn_implementation="loragrad", until `handle.detach()`.

        register("http://127.0.0.1:3000")
        model.set_attn_implementation("loragrad")

    A model that is attached by itself keeps its own service. Layers are called by their class and number.
    """
    handle = Handle(url, options)
    install()
    ROUTES.registered = handle
    return handle


def _refuse(model: nn.Module) -> None:
    name = type(model).__name__
    if not any(_has_interface(module) for module in model.modules()):
        raise UnsupportedError(
            f"{name}: none of its layers takes its attention from Transformers' AttentionInterface, so "
            "nothing of it can be left to the service"
        )
    for config in _configurations(_outermost(model)):
        if config.output_attentions:
            raise UnsupportedError(
                f"{name}: its config asks for attention weights (output_attentions=True), and none are "
                "computed"
            )


def _has_interface(module: nn.Module) -> bool:
    code: Any = sys.modules.get(type(module).__module__)
    return hasattr(code, "ALL_ATTENTION_FUNCTIONS")


def _outermost(model: nn.Module) -> Iterator[PreTrainedModel]:
    """The Transformers models in a model, which may be one itself, without their parts."""
    if isinstance(model, PreTrainedModel):
        yield model
        return
    for child in model.children():
        yield from _outermost(child)


def _configurations(models: Any) -> list[PreTrainedConfig]:
    """Of all parts of the models, each once."""
    waiting = [
        part.config
        for model in models
        for part in model.modules()
        if isinstance(part, PreTrainedModel)
    ]
    found: dict[int, PreTrainedConfig] = {}
    while waiting:
        config = waiting.pop()
        if config is not None and id(config) not in found:
            found[id(config)] = config
            waiting += [getattr(config, name) for name in config.sub_configs]
    return list(found.values())
