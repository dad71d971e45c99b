"""Kept-alive connections, each used by one thread of one process."""

from __future__ import annotations

import base64
import ssl
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import SplitResult, unquote, urlsplit

from .processes import restart_in_children

# Long enough for a slow network, short enough not to be taken for a long computation.
CONNECT_SECONDS = 10.0


class ConnectTimeout(TimeoutError):
    """Nobody has taken the connection: nothing was asked yet."""


@dataclass(frozen=True)
class Address:
    """Where a service is: `url` is safe to print, the credentials stand in `headers` alone."""

    url: str
    host: str
    port: int | None
    tls: bool
    prefix: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str], api_key: str | None) -> Address:
        """ValueError for what is no such URL, or when two credentials are given.

        `user:password@` of the URL becomes Basic authorization, `api_key` a Bearer token.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"Expected a URL like http://127.0.0.1:3000, not {_bare(parts)!r}")
        if parts.query or parts.fragment:
            raise ValueError(f"The URL {_bare(parts)!r} of a service has no query and no fragment")
        others = {name: headers[name] for name in headers if name.lower() != "authorization"}
        given = {f"the header {name}": headers[name] for name in headers.keys() - others.keys()}
        if api_key is not None:
            given["api_key"] = f"Bearer {api_key}"
        if parts.username is not None:
            given["the URL"] = _basic(parts)
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each hold credentials; give one of them")
        for value in given.values():
            others["Authorization"] = value
        return cls(
            url=_bare(parts).rstrip("/"),
            host=parts.hostname,
            port=parts.port,
            tls=parts.scheme == "https",
            prefix=parts.path.rstrip("/"),
            headers=others,
        )


class Connections:
    """At most one idle connection for each thread; a child that is forked starts without any.

    Two processes, or two threads, that read from one socket would get each other's answers.
    """

    def __init__(self, address: Address, timeout: float):
        """:param timeout: seconds without a byte from the service"""
        self._address = address
        self._timeout = timeout
        self._tls = ssl.create_default_context() if address.tls else None
        self._begin()
        restart_in_children(self)

    def _begin(self) -> None:
        self._own = threading.local()
        self._lock = threading.Lock()
        #: Those of all threads, for `close`.
        self._idle: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()

    def after_fork(self) -> None:
        inherited = list(self._idle)
        self._begin()
        for connection in inherited:
            connection.close()  # The parent's copy stays open.

    def take(self) -> HTTPConnection | None:
        """The idle connection of this thread, if it has one."""
        connection: HTTPConnection | None = self._own.__dict__.pop("connection", None)
        if connection is None:
            return None
        with self._lock:
            self._idle.discard(connection)
        # `close` of another thread may have closed it.
        return connection if connection.sock is not None else None

    def give_back(self, connection: HTTPConnection) -> None:
        self._own.connection = connection
        with self._lock:
            self._idle.add(connection)

    def open(self) -> HTTPConnection:
        """A new connection, connected."""
        host, port = self._address.host, self._address.port
        if self._tls is None:
            connection = HTTPConnection(host, port, timeout=CONNECT_SECONDS)
        else:
            connection = HTTPSConnection(host, port, timeout=CONNECT_SECONDS, context=self._tls)
        try:
            connection.connect()
        except TimeoutError as error:
            raise ConnectTimeout from error
        connection.sock.settimeout(self._timeout)
        return connection

    def close(self) -> None:
        """Closes the idle ones."""
        with self._lock:
            idle = list(self._idle)
            self._idle.clear()
        for connection in idle:
            connection.close()


def _bare(parts: SplitResult) -> str:
    """The URL without its credentials."""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _basic(parts: SplitResult) -> str:
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
