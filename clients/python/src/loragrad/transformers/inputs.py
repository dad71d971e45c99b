"""What entered the projections of an attention layer: with it errors are those of weights.

Errors of independent rows average out in X^T dQ, of which the gradients of an adapter are projections,
and not in dQ: a tolerance on dQ asks for more than training needs. Hooks on the projections keep X until
the attention of the layer takes it, and what was kept is compared with the states: it is sent where
the states are the outputs of the projections, rotated or not, and nothing else. Layers that normalise
queries and keys, rotate in another way or have fused projections go without.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..torch.local import rotate
from .copying import OfOneModel

#: By state what the projection is called, in most decoders and in Bert's family.
_PROJECTIONS = {
    "query": ("q_proj", "query"),
    "key": ("k_proj", "key"),
    "value": ("v_proj", "value"),
}
# Rounding of half precision; another formula is farther off.
_SAME = 2e-2


class ProjectionInputs:
    """Hooks on every attention layer of a model whose projections it recognises, until `remove()`."""

    def __init__(self, model: nn.Module, wanted: Callable[[int], bool]):
        """:param wanted: whether layers of so many tokens are to keep their inputs."""
        self._wanted = wanted
        self._hooks: list[RemovableHandle] = []
        #: By layer, in the thread that runs its forward pass.
        self._kept = threading.local()
        for layer in model.modules():
            projections = _projections(layer)
            for name, projection in projections.items():
                self._hooks.append(projection.register_forward_hook(_Keeper(self, layer, name)))
            if projections:
                hook = _TableKeeper(self)
                self._hooks.append(layer.register_forward_pre_hook(hook, with_kwargs=True))

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def take(self, layer: nn.Module, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`inputs` of a request, without a graph; those of states that nothing is known of are left out.

        :param states: query, key and value (B, H, L, d) as the attention takes them
        """
        kept = self.of(layer)
        found: dict[str, Tensor] = {}
        with torch.no_grad():
            tables = _tables(kept.pop("tables", None))
            # One pair of tables is for queries and keys alike.
            pair = ("query", "key")
            plain = {name for name in states if _is_output(states[name], kept.get(name), None)}
            turned = tables and {
                name for name in pair if _is_output(states[name], kept.get(name), tables)
            }
            if tables and turned and not plain.intersection(pair):
                found |= dict(zip(("cos", "sin"), tables, strict=True))
                plain |= turned
            found |= {name: kept[name][0].detach() for name in plain}
        kept.clear()
        return found if found.keys() & states.keys() else {}

    def of(self, layer: nn.Module) -> dict[str, Any]:
        """What this thread has kept of a layer."""
        layers = self._kept.__dict__.setdefault("layers", weakref.WeakKeyDictionary())
        kept: dict[str, Any] = layers.setdefault(layer, {})
        return kept

    def keeps(self, states: Any) -> bool:
        """Whether a layer with these states (B, L, d_in) is to. Compiled code leaves that out."""
        return (
            not torch.compiler.is_compiling()
            and torch.is_grad_enabled()
            and isinstance(states, Tensor)
            and states.ndim == 3
            and self._wanted(states.shape[1])
        )


class _Keeper(OfOneModel):
    """Hook of a projection: keeps its input and its output for the attention of the layer."""

    def __init__(self, inputs: ProjectionInputs, layer: nn.Module, name: str):
        self._inputs, self._layer, self._name = inputs, layer, name

    def __call__(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and self._inputs.keeps(args[0]) and isinstance(output, Tensor):
            self._inputs.of(self._layer)[self._name] = (args[0], output.detach())


class _TableKeeper(OfOneModel):
    """Hook of a layer: keeps the rotary positions that it is called with."""

    def __init__(self, inputs: ProjectionInputs):
        self._inputs = inputs

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> None:
        states = keywords.get("hidden_states", args[0] if args else None)
        if self._inputs.keeps(states):
            self._inputs.of(layer)["tables"] = keywords.get("position_embeddings")


def _projections(layer: nn.Module) -> dict[str, nn.Module]:
    """By state the projection of a layer, where all three are known."""
    found = {}
    for state, names in _PROJECTIONS.items():
        for name in names:
            projection = getattr(layer, name, None)
            if isinstance(projection, nn.Module):
                found[state] = projection
    return found if found.keys() == _PROJECTIONS.keys() else {}


def _tables(given: Any) -> tuple[Tensor, Tensor] | None:
    """cos and sin (B or 1, L, d), as Transformers hands them to its layers."""
    if not isinstance(given, tuple) or len(given) != 2:
        return None
    cos, sin = given
    if not (isinstance(cos, Tensor) and isinstance(sin, Tensor) and cos.ndim == sin.ndim == 3):
        return None
    return cos, sin


def _is_output(
    state: Tensor, kept: tuple[Tensor, Tensor] | None, tables: tuple[Tensor, Tensor] | None
) -> bool:
    """Whether a state (B, H, L, d) is what its projection gave (B, L, H d), rotated by the tables."""
    batch, heads, length, width = state.shape
    if kept is None or kept[1].shape != (batch, length, heads * width):
        return False
    output = kept[1].reshape(batch, length, heads, width).transpose(1, 2)
    if tables is not None:
        if tables[0].shape[1:] != (length, width):
            return False
        output = rotate(output, *(table.unsqueeze(1) for table in tables))
    difference = torch.linalg.vector_norm(output - state, dtype=torch.float32)
    return bool(difference <= _SAME * torch.linalg.vector_norm(state, dtype=torch.float32))
