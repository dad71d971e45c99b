"""A TCP proxy that counts what clients send, headers and all."""

import socket
import threading
from urllib.parse import urlsplit


class CountingProxy:
    """`with CountingProxy(url) as proxy:` serves `proxy.url`; `proxy.sent()`: since the last call."""

    def __init__(self, url):
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._sent = 0

    def __enter__(self):
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.close()

    def sent(self):
        sent, self._sent = self._sent, 0
        return sent

    def _accept(self):
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            service = socket.create_connection(self._target)
            for pair in ((client, service, True), (service, client, False)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source, sink, counted):
        try:
            while data := source.recv(1 << 16):
                if counted:
                    self._sent += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # The other direction has ended.
            pass
