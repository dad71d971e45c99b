"""What a service can do, read from its OpenAPI document: services of several ages are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import UnsupportedError


@dataclass(frozen=True)
class Capabilities:
    version: str
    #: `method="low_rank"`
    low_rank: bool
    #: `correction=True`
    correction: bool
    #: rotary positions: `cos`, `sin`
    rotary: bool
    #: padding: `key_lengths`
    key_lengths: bool
    #: `outputs=["input_gradients"]`
    input_gradients: bool
    #: POST /forward
    forward: bool
    #: PUT /tensors/{sha256} and references
    store: bool
    #: `query`, `key` and `value` in place of hidden states and projections
    attention_states: bool
    #: Every field of a request that it knows.
    fields: frozenset[str]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Capabilities:
        """:param document: the body of GET /openapi.json"""
        try:
            request = document["components"]["schemas"]["GradientRequest"]["properties"]
            paths = document["paths"]
        except (KeyError, TypeError):
            raise UnsupportedError(
                "The OpenAPI document is not that of a loragrad service"
            ) from None
        return cls(
            version=str(document["info"]["version"]),
            low_rank="low_rank" in _values(request.get("method")),
            correction="correction" in request,
            rotary="cos" in request and "sin" in request,
            key_lengths="key_lengths" in request,
            input_gradients="input_gradients" in _values(request.get("outputs")),
            forward="/forward" in paths,
            store=any(path.startswith("/tensors/") for path in paths),
            attention_states={"query", "key", "value"} <= request.keys(),
            fields=frozenset(request),
        )


def _values(schema: Any) -> set[str]:
    """Every string that a schema lists as an allowed value, however it nests them."""
    if isinstance(schema, Mapping):
        found = {schema["const"]} if isinstance(schema.get("const"), str) else set()
        found |= {value for value in schema.get("enum", ()) if isinstance(value, str)}
        return found.union(*(_values(item) for item in schema.values()))
    if isinstance(schema, list):
        return set().union(*(_values(item) for item in schema))
    return set()
