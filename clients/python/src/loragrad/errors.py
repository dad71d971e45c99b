"""Everything that this package raises on its own account."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PREFIX = "urn:loragrad:problem:"
#: What the caller of this package may change, by kind; what the operator may, the detail says.
_ADVICE = {
    "tolerance-missed": "Raise tolerance, or take method='auto', which falls back to exact.",
    "queue-full": "Client(retries=...) sets how often a busy service is asked again.",
    "deadline-exceeded": "Take smaller batches or raise LORAGRAD_DEADLINE_MS of the service.",
    "body-too-large": "Take smaller batches, or a service with larger limits.",
    "unauthorized": "Give the key of the service: Client(url, api_key=...).",
}


class LoragradError(Exception):
    """Base of all errors of this package."""

    #: The layer of a model that it is about, where that is known.
    layer: str | None = None

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.layer}: {text}" if self.layer else text


class UnsupportedError(LoragradError):
    """The service, or this client, does not do what was asked for. The message says what and why."""


class ServiceUnreachable(LoragradError):
    """No answer: connection refused, broken or timed out, after all retries."""


class ProblemError(LoragradError):
    """The service answered with a problem (RFC 9457).

    `type` is stable ("urn:loragrad:problem:shape-mismatch"), `kind` is its last part. `pointer` is an
    RFC 6901 pointer to the part of the request at fault; `limit` and `actual` stand where a limit was
    hit; `instance` is the id of the request in the log of the service.
    """

    def __init__(
        self, status: int, problem: Mapping[str, Any], headers: Mapping[str, str], where: str = ""
    ):
        """:param where: what was asked of whom: `POST http://127.0.0.1:3000/gradient`"""
        self.status = status
        self.type: str = str(problem.get("type", "about:blank"))
        self.title: str = str(problem.get("title", ""))
        self.detail: str = str(problem.get("detail", ""))
        self.pointer: str | None = problem.get("pointer")
        self.limit: float | None = problem.get("limit")
        self.actual: float | None = problem.get("actual")
        self.instance: str | None = problem.get("instance")
        self.missing: list[str] = list(problem.get("missing", ()))
        self.problem = dict(problem)
        self.headers = dict(headers)
        asked = f"{where}: " if where else ""
        pointer = f" (at {self.pointer})" if self.pointer else ""
        advice = f" {_ADVICE[self.kind]}" if self.kind in _ADVICE else ""
        super().__init__(
            f"{asked}{status} {self.kind}: {self.detail or self.title}{pointer}{advice}"
        )

    @property
    def kind(self) -> str:
        """The last part of `type`: "shape-mismatch"."""
        return self.type.removeprefix(_PREFIX)

    @property
    def of_overflow(self) -> bool:
        """Whether some number is too large for its dtype: PyTorch has infinity there, and goes on."""
        return self.kind == "not-finite"
