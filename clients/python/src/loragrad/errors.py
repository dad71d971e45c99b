"""Everything that this package raises on its own account."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PREFIX = "urn:loragrad:problem:"


class LoragradError(Exception):
    """Base of all errors of this package."""


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

    def __init__(self, status: int, problem: Mapping[str, Any], headers: Mapping[str, str]):
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
        where = f" (at {self.pointer})" if self.pointer else ""
        super().__init__(f"{status} {self.kind}: {self.detail or self.title}{where}")

    @property
    def kind(self) -> str:
        """The last part of `type`: "shape-mismatch"."""
        return self.type.removeprefix(_PREFIX)
