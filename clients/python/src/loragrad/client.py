"""The calls of the service with numpy arrays or torch tensors."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from .capabilities import Capabilities
from .connections import Address
from .errors import ProblemError
from .references import MIN_BYTES, Reference
from .request import Request, is_frozen, map_tensors
from .result import (
    ForwardResult,
    GradientResult,
    PlanResult,
    Threshold,
    known,
    tensor_error,
)
from .store import TensorStore
from .tensors import Tensor, WireTensor, dtype_name, from_wire, to_wire
from .transport import Traffic, Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack

# A job is lost with the service that had it. Who loses several will lose the next.
MAX_JOBS = 3

_TENSOR_KEYS = ("gradients", "input_gradients", "attention_output")


class Client(AbstractContextManager["Client"]):
    """A connection to a loragrad service; may be shared by threads.

    Processes may share it too: a child that was forked opens connections of its own, and a client that
    is pickled arrives without any.

    :param url: `http://host:port`, with a path in front of the routes if a proxy puts one there, and
        with `user:password@` where it asks for Basic authorization.
    :param api_key: sent as Bearer token.
    :param timeout: seconds without a byte from the service until a call fails; the service itself gives
        up after its `deadline_ms` (see `limits`).
    :param retries: how often a call is repeated after 429, 502, 503 or a broken connection, with
        exponential back-off and as Retry-After says. The default outlasts a restart of the service: about
        a minute.
    :param headers: sent with every request, say for a proxy that asks for authorization.
    :param references: send frozen weights once and by hash from then on, when the service can.
    :param progress_min_bytes: uploads from this size show a progress bar on a terminal.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 610.0,
        retries: int = 8,
        headers: Mapping[str, str] | None = None,
        references: bool = True,
        progress_min_bytes: int = 8_000_000,
    ):
        self._arguments: dict[str, Any] = {
            "url": url,
            "api_key": api_key,
            "timeout": timeout,
            "retries": retries,
            "headers": headers,
            "references": references,
            "progress_min_bytes": progress_min_bytes,
        }
        self._address = Address.of(url, headers or {}, api_key)
        self._transport = Transport(
            self._address, timeout=timeout, retries=retries, progress_min_bytes=progress_min_bytes
        )
        self._use_references = references
        self._store = TensorStore(self._transport)
        self._capabilities: Capabilities | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self._arguments), ()

    def __deepcopy__(self, _: object) -> Client:
        return self

    @property
    def url(self) -> str:
        """The address, without credentials."""
        return self._address.url

    @property
    def traffic(self) -> Traffic:
        """Requests and bytes of bodies so far."""
        return self._transport.traffic

    def capabilities(self) -> Capabilities:
        """What the service can do; asked once."""
        if self._capabilities is None:
            document = self._transport.request("GET", "/openapi.json").value()
            self._capabilities = Capabilities.of(document)
        return self._capabilities

    def limits(self) -> dict[str, int]:
        """Every limit that a request can hit, as numbers."""
        limits: dict[str, int] = self._transport.request("GET", "/limits").value()
        return limits

    def gradient(
        self, *, respond_async: bool = False, **request: Unpack[Request]
    ) -> GradientResult:
        """Gradients of every adapter, or of query, key, value and sinks; see `Request` for the arguments.

        Each has the library, device and dtype of its tensor; `attention_output` those of
        `grad_output` or `target`, and input gradients those of their states.

        :param respond_async: for long work: the service computes without an open connection, and is asked
            for the answer until it is there. Its limit is then `job_deadline_ms`, not `timeout`.
        """
        answer = self._post("/gradient", request, respond_async)
        like = request.get("grad_output", request.get("target"))
        output = answer.get("attention_output")
        return GradientResult(
            gradients=_gradients(answer.get("gradients", {}), request),
            input_gradients=_gradients(answer.get("input_gradients", {}), request),
            attention_output=output and from_wire(output, like),
            loss=answer.get("loss"),
            error_of=answer.get("error_of", "gradients"),
            error={name: tensor_error(error) for name, error in answer["error"].items()},
            **_verdict(answer),
        )

    def plan(self, **request: Unpack[Request]) -> PlanResult:
        """The threshold verdict, method and cost for the same arguments, without the gradient.

        `target` and `grad_output` may be left out.
        """
        return PlanResult(**_verdict(self._post("/plan", request)))

    def forward(self, *, respond_async: bool = False, **request: Unpack[Request]) -> ForwardResult:
        """The attention output, in the library, device and dtype of the queries' states.

        :param respond_async: as for `gradient`.
        """
        answer = self._post("/forward", request, respond_async)
        names = ("hidden_states", "query_states", "query")
        given: Mapping[str, Any] = request
        like = next(given[name] for name in names if given.get(name) is not None)
        return ForwardResult(
            attention_output=from_wire(answer["attention_output"], like),
            error=tensor_error(answer["error"]["attention_output"]),
            **_verdict(answer),
        )

    def close(self) -> None:
        """Closes idle connections. The client may be used again."""
        self._transport.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _post(
        self, path: str, request: Mapping[str, Any], respond_async: bool = False
    ) -> dict[str, Any]:
        by_reference = self._use_references and self.capabilities().store

        def encode(where: tuple[str, ...], tensor: Tensor) -> Reference | WireTensor:
            try:
                dtype_name(tensor)
            except TypeError as error:
                raise TypeError(f"{'.'.join(where)}: {error}") from None
            wire = to_wire(tensor)
            large = wire.nbytes >= MIN_BYTES
            return Reference.of(wire) if by_reference and large and is_frozen(where) else wire

        headers = {"Prefer": "respond-async"} if respond_async else {}
        encoded = map_tensors(request, encode)
        for attempt in range(MAX_JOBS):
            answer = self._store.post(path, encoded, headers)
            try:
                value: dict[str, Any] = self._transport.finished(answer).value()
            except ProblemError as error:
                if error.status != 404 or attempt + 1 == MAX_JOBS:
                    raise
            else:
                return value
        raise AssertionError("unreachable: the last attempt returns or raises")


def _gradients(answer: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors on the wire, alone or of an adapter, each like what it is a gradient of."""
    return {
        name: from_wire(value, like[name]) if "dtype" in value else _gradients(value, like[name])
        for name, value in answer.items()
    }


def _verdict(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `PlanResult` and, where the answer has them, of `ComputedResult`."""
    names = ("method", "reason", "plan", "timings_ms", "fallback", "seed")
    return {
        **{name: answer[name] for name in names if name in answer},
        "threshold": known(Threshold, answer["threshold"]),
        "raw": {key: value for key, value in answer.items() if key not in _TENSOR_KEYS},
    }
