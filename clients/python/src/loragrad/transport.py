"""HTTP with kept-alive connections, time-outs and retries; nothing of tensors or gradients.

Every call of the service is a pure computation or stores a tensor under its own hash, so every request
may be sent again without harm.
"""

from __future__ import annotations

import http.client
import json
import random
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import msgpack

from .body import MEDIA_TYPE, Body
from .errors import ProblemError, ServiceUnreachable
from .progress import UploadBar

RETRY_STATUS = (429, 503)
FIRST_DELAY_SECONDS = 0.25
MAX_DELAY_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def value(self) -> Any:
        """The decoded body; nothing for an empty one.

        ValueError when it is neither JSON nor MessagePack.
        """
        if not self.body:
            return None
        media_type = self.headers.get("content-type", "").split(";")[0].strip()
        if media_type == "application/json" or media_type.endswith("+json"):
            return json.loads(self.body)
        if media_type == MEDIA_TYPE:
            return msgpack.unpackb(self.body, max_bin_len=len(self.body))
        raise ValueError(
            f"The answer is of type {media_type or 'unknown'}: is this the address of a loragrad service?"
        )


@dataclass
class Traffic:
    """What went over the wire, bodies only. Retries count again."""

    requests: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class Transport:
    """Sends requests to one service; may be shared by threads, each uses a connection of its own."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        retries: int,
        headers: Mapping[str, str],
        progress_min_bytes: int,
    ):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"Expected a URL like http://127.0.0.1:3000, not {url!r}")
        self._host, self._port = parts.hostname, parts.port
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/")
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._retries = retries
        self._headers = dict(headers)
        self._progress_min_bytes = progress_min_bytes
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self.traffic = Traffic()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def request(self, method: str, path: str, body: Body | None = None) -> Answer:
        """The first answer that is a success (2xx), after up to `retries` repetitions.

        Repeated are 429 and 503, after the wait that Retry-After asks for or else an exponential
        back-off with jitter, and broken connections, but not to a service that was never there. Raises
        ProblemError for other errors and ServiceUnreachable when no answer came.
        """
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                answer = self._once(method, path, body)
            except TimeoutError as error:
                # The service may be computing still: asking again would only add to its load.
                raise ServiceUnreachable(
                    f"{method} {self.url}{path}: no answer within {self._timeout} s"
                ) from error
            except (OSError, http.client.HTTPException) as error:
                if last or self._hopeless(error):
                    raise ServiceUnreachable(f"{method} {self.url}{path}: {error!r}") from error
                time.sleep(_backoff(attempt))
                continue
            if 200 <= answer.status < 300:
                return answer
            delay = max(_retry_after(answer.headers), _backoff(attempt))
            # A service that asks for more patience than the caller has is left alone.
            if answer.status not in RETRY_STATUS or last or delay > self._timeout:
                raise _problem(answer)
            time.sleep(delay)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _hopeless(self, error: Exception) -> bool:
        """A certificate that is not trusted, or nobody at an address that has never answered."""
        if isinstance(error, ConnectionRefusedError):
            return self.traffic.requests == 0
        return isinstance(error, ssl.SSLCertVerificationError)

    def _once(self, method: str, path: str, body: Body | None) -> Answer:
        connection, reused = self._take()
        try:
            return self._exchange(connection, method, path, body)
        except (ConnectionError, http.client.HTTPException):
            connection.close()
            if not reused:
                raise
        except BaseException:
            connection.close()
            raise
        # A kept-alive connection may have been closed by the service meanwhile: that is no failure.
        connection = self._open()
        try:
            return self._exchange(connection, method, path, body)
        except BaseException:
            connection.close()
            raise

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Body | None
    ) -> Answer:
        connection.putrequest(method, self._prefix + path)
        for name, value in self._headers.items():
            connection.putheader(name, value)
        connection.putheader("Accept", f"{MEDIA_TYPE}, application/json, application/problem+json")
        if body is not None:
            connection.putheader("Content-Type", MEDIA_TYPE)
            connection.putheader("Content-Length", str(body.nbytes))
        connection.endheaders()
        broken = None
        if body is not None:
            try:
                self._send(connection, body, f"{method} {path}")
            except TimeoutError:
                raise
            except OSError as error:
                # A service that refuses from the headers alone closes before it has read the body;
                # its answer may still be there.
                broken = error
        try:
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise broken or error from None
        with self._lock:
            self.traffic.requests += 1
            self.traffic.bytes_received += len(data)
            reusable = broken is None and not response.will_close
            if reusable:
                self._idle.append(connection)
        if not reusable:
            connection.close()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, data)

    def _send(self, connection: http.client.HTTPConnection, body: Body, label: str) -> None:
        with UploadBar(label, body.nbytes, self._progress_min_bytes) as bar:
            for chunk in body.chunks():
                connection.send(chunk)
                bar.advance(len(chunk))
                with self._lock:
                    self.traffic.bytes_sent += len(chunk)

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
        return self._open(), False

    def _open(self) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout, context=self._tls
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)


def _backoff(attempt: int) -> float:
    """Seconds before the next attempt: doubles, with jitter so that many clients do not march in step."""
    ceiling = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0**attempt)
    return ceiling * random.uniform(0.5, 1.0)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After asks for, as a number or an HTTP date; 0 without one."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return 0.0


def _problem(answer: Answer) -> ProblemError:
    try:
        problem = answer.value()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        title = answer.body[:200].decode("utf-8", "replace")
        if "location" in answer.headers:
            title = f"redirects to {answer.headers['location']}; redirects are not followed"
        problem = {"title": title or "no description"}
    return ProblemError(answer.status, problem, answer.headers)
