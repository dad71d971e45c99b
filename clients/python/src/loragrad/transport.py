"""HTTP with kept-alive connections, time-outs and retries; nothing of tensors or gradients.

Every call of the service is a pure computation or stores a tensor under its own hash, so every request
may be sent again without harm.
"""

from __future__ import annotations

import http.client
import json
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import msgpack

from .body import MEDIA_TYPE, Body
from .connections import CONNECT_SECONDS, Address, Connections, ConnectTimeout
from .errors import ProblemError, ServiceUnreachable
from .processes import restart_in_children
from .progress import UploadBar

_log = logging.getLogger("loragrad")

# 502 is how a proxy tells of a broken connection: the service behind it is being restarted.
RETRY_STATUS = (429, 502, 503)
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
    """Sends requests to one service; may be shared by threads, and by processes that fork."""

    def __init__(self, address: Address, *, timeout: float, retries: int, progress_min_bytes: int):
        self._address = address
        self._timeout = timeout
        self._retries = retries
        self._progress_min_bytes = progress_min_bytes
        self._connections = Connections(address, timeout)
        self._lock = threading.Lock()
        self.traffic = Traffic()
        restart_in_children(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def close(self) -> None:
        self._connections.close()

    def finished(self, answer: Answer) -> Answer:
        """The answer itself or, after 202, that of the job which it names: asked for until it is there.

        The job is cancelled when the caller is interrupted. ProblemError of status 404 when the service
        has lost it, as when it was started again.
        """
        if answer.status == 202:
            job = f"/jobs/{answer.headers['location'].rsplit('/', 1)[-1]}"
            try:
                while answer.status == 202:
                    # A proxy may drop the header.
                    time.sleep(max(_retry_after(answer.headers), FIRST_DELAY_SECONDS))
                    answer = self.request("GET", job)
            except KeyboardInterrupt:
                self.request("DELETE", job)
                raise
        return answer

    def request(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The first answer that is a success (2xx), after up to `retries` repetitions.

        Repeated are 429, 502 and 503, after the wait that Retry-After asks for or else an exponential
        back-off with jitter, and broken connections, but not to a service that was never there. Every
        repetition is logged as a warning. Raises ProblemError for other errors and ServiceUnreachable
        when no answer came.
        """
        where = f"{method} {self._address.url}{path}"
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            delay = _backoff(attempt)
            try:
                answer = self._once(method, path, body, headers or {})
            except TimeoutError as error:
                # The service may be computing still: asking again would only add to its load.
                raise ServiceUnreachable(f"{where}: {self._silence(error)}") from error
            except (OSError, http.client.HTTPException) as error:
                reason = f"{where}: {_reason(error)}"
                if last or self._hopeless(error):
                    raise ServiceUnreachable(reason) from error
            else:
                if 200 <= answer.status < 300:
                    return answer
                problem = _problem(answer, where)
                reason = str(problem)
                delay = max(_retry_after(answer.headers), delay)
                # A service that asks for more patience than the caller has is left alone.
                if answer.status not in RETRY_STATUS or last or delay > self._timeout:
                    raise problem
            _log.warning(
                "%s; try %d of %d follows in %.1f s",
                *(reason, attempt + 2, self._retries + 1, delay),
            )
            time.sleep(delay)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _hopeless(self, error: Exception) -> bool:
        """Whether another attempt would end the same way."""
        if isinstance(error, ssl.SSLError):
            return True
        if isinstance(error, http.client.HTTPException):
            return not isinstance(
                error, (http.client.RemoteDisconnected, http.client.IncompleteRead)
            )
        # Nobody at an address that has never answered: a service that was there may be restarting.
        broken = isinstance(error, ConnectionError) and not isinstance(
            error, ConnectionRefusedError
        )
        return self.traffic.requests == 0 and not broken

    def _silence(self, error: TimeoutError) -> str:
        if isinstance(error, ConnectTimeout):
            return f"no connection within {CONNECT_SECONDS:.0f} s"
        return f"no answer within {self._timeout} s; Client(timeout=...) sets how long is waited"

    def _once(
        self, method: str, path: str, body: Body | None, headers: Mapping[str, str]
    ) -> Answer:
        connection = self._connections.take()
        if connection is not None:
            try:
                return self._exchange(connection, method, path, body, headers)
            except (ConnectionError, http.client.HTTPException):
                # The service may have closed it meanwhile: that is no failure.
                connection.close()
            except BaseException:
                connection.close()
                raise
        connection = self._connections.open()
        try:
            return self._exchange(connection, method, path, body, headers)
        except BaseException:
            connection.close()
            raise

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Body | None,
        headers: Mapping[str, str],
    ) -> Answer:
        connection.putrequest(method, self._address.prefix + path)
        for name, value in {**self._address.headers, **headers}.items():
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
        if broken is None and not response.will_close:
            self._connections.give_back(connection)
        else:
            connection.close()
        answered = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, answered, data)

    def _send(self, connection: http.client.HTTPConnection, body: Body, label: str) -> None:
        with UploadBar(label, body.nbytes, self._progress_min_bytes) as bar:
            for chunk in body.chunks():
                connection.send(chunk)
                bar.advance(len(chunk))
                with self._lock:
                    self.traffic.bytes_sent += len(chunk)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS ({error}); is it a service behind http:// and not https://?"
    if isinstance(error, socket.gaierror):
        return f"the name of the host is not known ({error})"
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
        return (
            f"it does not speak HTTP ({error!r}); is it a service behind https:// and not http://?"
        )
    return repr(error)


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


def _problem(answer: Answer, where: str) -> ProblemError:
    try:
        problem = answer.value()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        title = answer.body[:200].decode("utf-8", "replace")
        if "location" in answer.headers:
            title = f"redirects to {answer.headers['location']}; redirects are not followed"
        problem = {"title": title or "no description"}
    return ProblemError(answer.status, problem, answer.headers, where)
