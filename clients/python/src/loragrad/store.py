"""The tensor store of the service: uploads what it lacks, repeats a request that it could not resolve."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from .body import Body
from .errors import ProblemError
from .references import MIN_BYTES, HashMemory, Reference
from .tensors import Tensor, to_wire
from .transport import Answer, Transport

MISSING = "missing-tensors"
# A store smaller than one request evicts what the request needs. Then its tensors travel with it.
MAX_ROUNDS = 3


class TensorStore:
    """Remembers what the service is believed to hold; what it forgot it says itself (409)."""

    def __init__(self, transport: Transport):
        self._transport = transport
        self._hashes = HashMemory()
        self._held: set[str] = set()
        self._refused: set[str] = set()
        self._lock = threading.Lock()

    def reference(self, tensor: Tensor) -> Reference | None:
        """A reference to the tensor; None when it is too small to be worth one."""
        if tensor.nbytes < MIN_BYTES:
            return None
        return Reference(self._hashes.sha256(tensor), lambda: to_wire(tensor))

    def post(self, path: str, request: Mapping[str, Any]) -> Answer:
        """POST a request whose tensors may be References, uploading them first where needed."""
        references = {item.sha256: item for item in _references(request)}
        with self._lock:
            unknown = references.keys() - self._held
        for _ in range(MAX_ROUNDS):
            for sha256 in unknown:
                self._upload(references[sha256])
            try:
                return self._transport.request("POST", path, Body(self._resolved(request)))
            except ProblemError as error:
                if error.kind != MISSING:
                    raise
                unknown = references.keys() & {
                    name.removeprefix("sha256:") for name in error.missing
                }
                if not unknown:
                    raise
                with self._lock:
                    self._held -= unknown
        with self._lock:
            self._refused |= unknown
        return self._transport.request("POST", path, Body(self._resolved(request)))

    def _upload(self, reference: Reference) -> None:
        path = f"/tensors/{reference.sha256}"
        held = False
        try:
            self._transport.request("HEAD", path)
            held = True
        except ProblemError as error:
            if error.status != 404:
                raise
        if not held:
            try:
                self._transport.request("PUT", path, Body(reference.load()))
            except ProblemError as error:
                # Too large for the store, or not valid: sent within its request, which can say more.
                if error.status not in (413, 422):
                    raise
                with self._lock:
                    self._refused.add(reference.sha256)
                return
        with self._lock:
            self._held.add(reference.sha256)

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, Reference):
            return value.load() if value.sha256 in self._refused else value.wire
        if isinstance(value, Mapping):
            return {key: self._resolved(item) for key, item in value.items()}
        return value


def _references(value: Any) -> Iterable[Reference]:
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _references(item)
