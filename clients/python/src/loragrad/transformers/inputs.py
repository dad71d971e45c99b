"""What entered the projections of an attention layer: with it errors are those of weights.

Errors of independent rows average out in X^T dQ, of which the gradients of an adapter are projections,
and not in dQ: a tolerance on dQ asks for more than training needs. Hooks on the projections keep X until
the attention of the layer takes it, and what was kept is compared with the states: it is sent where
the states are the outputs of the projections or of a fused one, rotated or not, and nothing else.
Layers that normalise queries and keys or rotate in another way go without.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
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
#: What one projection for all three is called.
_FUSED = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv")
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
        with torch.no_grad():
            tables = _tables(kept.pop("tables", None))
            # One pair of tables is for queries and keys alike.
            pair = {"query", "key"}
            found = _sources(kept, states, states.keys(), None)
            if tables and not found.keys() & pair:
                rotated = _sources(kept, states, pair, tables)
                if rotated:
                    found |= dict(zip(("cos", "sin"), tables, strict=True)) | rotated
        kept.clear()
        sources = [found[name] for name in states if name in found]
        if len(sources) == len(states) and all(source is sources[0] for source in sources):
            found = {name: t for name, t in found.items() if name not in states}
            found["hidden_states"] = sources[0]
        return {name: t.detach() for name, t in found.items()} if sources else {}

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
    """By state the projection of a layer, where all three are known; or the fused one."""

    def named(names: tuple[str, ...]) -> list[nn.Module]:
        found = (getattr(layer, name, None) for name in names)
        return [module for module in found if isinstance(module, nn.Module)]

    fused = named(_FUSED)
    if fused:
        return {"fused": fused[0]}
    apart = {state: named(names) for state, names in _PROJECTIONS.items()}
    return {state: found[0] for state, found in apart.items()} if all(apart.values()) else {}


def _tables(given: Any) -> tuple[Tensor, Tensor] | None:
    """cos and sin (B or 1, L, d), as Transformers hands them to its layers."""
    if not isinstance(given, tuple) or len(given) != 2:
        return None
    cos, sin = given
    if not (isinstance(cos, Tensor) and isinstance(sin, Tensor) and cos.ndim == sin.ndim == 3):
        return None
    return cos, sin


def _sources(
    kept: Mapping[str, tuple[Tensor, Tensor]],
    states: Mapping[str, Tensor],
    wanted: Iterable[str],
    tables: tuple[Tensor, Tensor] | None,
) -> dict[str, Tensor]:
    """By state the input (B, L, d_in) of the projection whose output it is, rotated by the tables."""
    found = {}
    for name, (given, output) in kept.items():
        readings = _fused(output, states) if name == "fused" else _alone(output, states[name], name)
        for reading in readings:
            for state in reading.keys() & set(wanted):
                if _is_same(states[state], reading[state], tables):
                    found[state] = given
    return found


def _alone(output: Tensor, state: Tensor, name: str) -> Iterator[dict[str, Tensor]]:
    """How the output (B, L, H d) of a projection is read, if it may be that state (B, H, L, d)."""
    _, heads, _, width = state.shape
    if output.shape[-1] == heads * width:
        yield {name: torch.unflatten(output, -1, (heads, width)).transpose(1, 2)}


def _fused(output: Tensor, states: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """How models read query, key and value (B, H, L, d) from one output."""
    sizes = {name: (state.shape[1], state.shape[3]) for name, state in states.items()}
    if output.shape[-1] != sum(heads * width for heads, width in sizes.values()):
        return
    # One after the other: GPT-2, Phi3.
    parts = torch.split(output, [heads * width for heads, width in sizes.values()], dim=-1)
    yield {
        name: torch.unflatten(part, -1, size).transpose(1, 2)
        for (name, size), part in zip(sizes.items(), parts, strict=True)
    }
    heads, width = sizes["key"]
    if sizes["value"][1] != width:
        return
    # Queries, key and value of each key/value head: Bloom, GPT-NeoX.
    groups = torch.unflatten(output, -1, (heads, -1, width)).permute(0, 2, 3, 1, 4)
    yield {
        "query": groups[:, :, :-2].flatten(1, 2),
        "key": groups[:, :, -2],
        "value": groups[:, :, -1],
    }


def _is_same(state: Tensor, output: Tensor, tables: tuple[Tensor, Tensor] | None) -> bool:
    """Whether a state (B, H, L, d) is an output of that shape, rotated by the tables."""
    if output.shape != state.shape:
        return False
    if tables is not None:
        if tables[0].shape[1] != state.shape[2] or tables[0].shape[2] > state.shape[3]:
            return False
        output = rotate(output, *(table.unsqueeze(1) for table in tables))
    difference = torch.linalg.vector_norm(output - state, dtype=torch.float32)
    return bool(difference <= _SAME * torch.linalg.vector_norm(state, dtype=torch.float32))
