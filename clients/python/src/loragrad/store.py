"""The tensor store of the service: uploads what it lacks, repeats a request that it could not resolve."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .body import Body
from .errors import ProblemError
from .processes import restart_in_children
from .references import Reference
from .transport import Answer, Transport

MISSING = "missing-tensors"
# The first loss may be a restart of the service. A second in a row: its store is too small for what its
# clients use, and the tensor had better travel with its requests.
MAX_LOSSES = 2


class TensorStore:
    """Remembers what the service is believed to hold; what it forgot it says itself (409).

    Threads may share it: what one does not know of another costs an upload, no more.
    """

    def __init__(self, transport: Transport):
        self._transport = transport
        #: By hash the number of the upload that put it there.
        self._held: dict[str, int] = {}
        self._uploads = itertools.count()
        #: Sent within their requests.
        self._given_up: set[str] = set()
        #: How often in a row a tensor was found missing that had been uploaded.
        self._losses: Counter[str] = Counter()
        self._lock = threading.Lock()
        restart_in_children(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def post(
        self, path: str, request: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> Answer:
        """POST a request whose tensors may be References, uploading them first where needed."""
        references = {item.sha256: item for item in _references(request)}
        lacking = references.keys() - self._held.keys()
        uploaded: set[str] = set()
        # Ends, since every round without an answer brings a reference nearer to being given up.
        while True:
            for sha256 in lacking - self._given_up:
                self._upload(references[sha256])
                uploaded.add(sha256)
            inline = references.keys() & self._given_up
            held = dict(self._held)
            try:
                body = Body(_resolved(request, inline))
                answer = self._transport.request("POST", path, body, headers)
            except ProblemError as error:
                lacking = (references.keys() - inline) & _names(error)
                if error.kind != MISSING or not lacking:
                    raise
                self._lose(lacking, held)
            else:
                with self._lock:
                    for sha256 in references.keys() - uploaded:
                        self._losses.pop(sha256, None)
                return answer

    def _upload(self, reference: Reference) -> None:
        path = f"/tensors/{reference.sha256}"
        try:
            self._transport.request("HEAD", path)
        except ProblemError as error:
            if error.status != 404:
                raise
            try:
                self._transport.request("PUT", path, Body(reference.tensor))
            except ProblemError as refusal:
                # Too large for the store, or not valid: sent within its request, which can say more.
                if refusal.status not in (413, 422):
                    raise
                self._given_up.add(reference.sha256)
                return
        self._held[reference.sha256] = next(self._uploads)

    def _lose(self, names: Iterable[str], held: Mapping[str, int]) -> None:
        """:param held: what was believed when the request was sent"""
        with self._lock:
            for sha256 in names:
                # One loss is counted once, however many threads come upon it: not when another has
                # noticed it, or made it good, meanwhile.
                if sha256 not in held or self._held.get(sha256) != held[sha256]:
                    continue
                del self._held[sha256]
                self._losses[sha256] += 1
                if self._losses[sha256] >= MAX_LOSSES:
                    self._given_up.add(sha256)


def _resolved(value: Any, inline: Collection[str]) -> Any:
    if isinstance(value, Reference):
        return value.tensor if value.sha256 in inline else value.wire
    if isinstance(value, Mapping):
        return {key: _resolved(item, inline) for key, item in value.items()}
    return value


def _names(error: ProblemError) -> set[str]:
    return {name.removeprefix("sha256:") for name in error.missing}


def _references(value: Any) -> Iterable[Reference]:
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _references(item)
