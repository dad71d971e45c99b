"""Retries, time-outs and connections, against a scripted service."""

import socket
import ssl
import sys
import threading
import time
from email.utils import formatdate

import problems
import pytest
from contract_service import ContractService

from loragrad import Client, ProblemError, ServiceUnreachable, UnsupportedError, transport
from loragrad.progress import UploadBar

BUSY = (429, {"Retry-After": "1"})


@pytest.fixture
def waits(monkeypatch):
    """The waits between attempts, which are not waited."""
    seconds = []
    monkeypatch.setattr(transport.time, "sleep", seconds.append)
    return seconds


def test_busy_answers_are_waited_out(contract, waits):
    start = time.time()
    contract.script = [BUSY, (503, {"Retry-After": formatdate(start + 20, usegmt=True)})]
    assert Client(contract.url).limits()
    first, second = waits
    assert first == 1
    # A date has no fractions of a second, and some time has passed.
    assert 19 - (time.time() - start) <= second <= 20


def test_without_retry_after_the_waits_grow(contract, waits):
    contract.script = [(503, {})] * 4
    Client(contract.url).limits()
    assert [0.125 * 2**n <= wait <= 0.25 * 2**n for n, wait in enumerate(waits)] == [True] * 4


def test_the_last_refusal_is_raised(contract, waits):
    contract.script = [BUSY] * 3
    with pytest.raises(ProblemError, match="queue-full") as caught:
        Client(contract.url, retries=2).limits()
    assert (caught.value.status, caught.value.limit, caught.value.actual) == (429, 1, 2)
    assert len(waits) == 2


def test_a_wait_beyond_the_time_out_is_not_begun(contract, waits):
    contract.script = [(503, {"Retry-After": "3600"})]
    with pytest.raises(ProblemError):
        Client(contract.url, timeout=60).limits()
    assert not waits


def test_other_problems_are_not_repeated(contract, waits):
    contract.script = [(500, {})]
    with pytest.raises(ProblemError):
        Client(contract.url).limits()
    assert not waits and len(contract.requests) == 1


def test_broken_connections_are_tried_again(contract, waits):
    """502 is a proxy's word for one."""
    contract.script = [None, None, (502, {})]
    assert Client(contract.url).limits()
    assert len(contract.requests) == 4 and len(waits) == 3


def test_a_connection_that_the_service_has_closed_meanwhile_costs_no_attempt(contract, waits):
    client = Client(contract.url, retries=0)
    client.limits()
    contract.script = [None]
    assert client.limits()
    assert not waits


def test_a_job_that_the_service_has_lost_is_begun_again(contract, waits):
    x, projections, grad, layer = problems.make()
    contract.script = [(202, {"Location": "/jobs/1"})]
    result = Client(contract.url, references=False).gradient(
        hidden_states=x,
        grad_output=grad,
        respond_async=True,
        **projections,
        **problems.request_of(layer),
    )
    assert result.gradients["q_proj"]
    assert [path for _, path, _ in contract.requests] == ["/gradient", "/jobs/1", "/gradient"]
    # No Retry-After: it is not asked without a pause.
    assert waits == [transport.FIRST_DELAY_SECONDS]


def test_one_connection_serves_many_calls(contract):
    with Client(contract.url) as client:
        x, projections, grad, layer = problems.make()
        for _ in range(5):
            client.gradient(
                hidden_states=x, **projections, grad_output=grad, **problems.request_of(layer)
            )
    assert contract.connections == 1


def test_threads_share_a_client(contract):
    client = Client(contract.url)
    x, projections, grad, layer = problems.make()
    norms = []

    def call():
        result = client.gradient(
            hidden_states=x, **projections, grad_output=grad, **problems.request_of(layer)
        )
        norms.append(float(result.gradients["q_proj"]["lora_A"].norm()))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(norms) == 8 and len(set(norms)) == 1


def test_no_service(waits):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServiceUnreachable, match=f"{port}.*refused"):
        Client(f"http://127.0.0.1:{port}").limits()
    assert not waits


def test_a_service_that_was_there_is_waited_for(waits):
    with ContractService() as service:
        client = Client(service.url)
        client.limits()
    client.close()
    with pytest.raises(ServiceUnreachable):
        client.limits()
    assert len(waits) == 8 and sum(waits) > 30


def test_a_silent_service_times_out_and_is_not_asked_again(waits):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServiceUnreachable, match=r"0\.3 s"):
            Client(url, timeout=0.3).limits()
    assert not waits


def test_an_early_refusal_of_a_big_body_is_understood():
    """The service answers 429 from the headers and closes, while the client is still sending."""
    refusal = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 2\r\nConnection: close\r\n"
    refusal += b"Content-Type: application/json\r\n\r\n{}"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(refusal)
            connection.shutdown(socket.SHUT_WR)
            time.sleep(0.5)
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        x, projections, grad, layer = problems.make(length=200_000, batch=1)
        client = Client(url, retries=0, references=False, timeout=10)
        with pytest.raises((ProblemError, ServiceUnreachable)) as caught:
            client.gradient(
                hidden_states=x, **projections, grad_output=grad, **problems.request_of(layer)
            )
        assert isinstance(caught.value, ProblemError) and caught.value.status == 413


def answering(head, body=b""):
    """URL of a server that gives one answer and ends."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        with server, server.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_web_page_is_no_answer():
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
    with pytest.raises(ValueError, match="text/html"):
        Client(answering(page, b"<html>")).limits()


def test_another_service_is_not_mistaken_for_this_one():
    document = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    with pytest.raises(UnsupportedError, match="OpenAPI"):
        Client(answering(document, b'{"paths": {}}')).capabilities()


def test_a_redirect_is_no_success():
    moved = b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://host/limits\r\n"
    with pytest.raises(ProblemError, match="https://host/limits"):
        Client(answering(moved)).limits()


def test_a_certificate_that_is_not_trusted_is_not_tried_again(monkeypatch, waits):
    def refuse(*_):
        raise ssl.SSLCertVerificationError("self-signed certificate")

    monkeypatch.setattr(transport.Transport, "_once", refuse)
    with pytest.raises(ServiceUnreachable, match="self-signed"):
        Client("https://127.0.0.1:1").limits()
    assert not waits


def test_a_name_that_nobody_has_fails_at_once(monkeypatch, waits):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ServiceUnreachable, match=r"http://no-such-host.*name of the host"):
        Client("http://no-such-host:3000").limits()
    assert not waits


def test_https_on_an_http_port_fails_at_once(contract, waits):
    with pytest.raises(ServiceUnreachable, match="behind http://"):
        Client(contract.url.replace("http", "https")).limits()
    assert not waits


def test_http_on_a_port_of_something_else_fails_at_once(waits):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with server.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(b"\x15\x03\x03\x00\x02\x02\x46")  # A TLS alert.

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(ServiceUnreachable, match="does not speak HTTP"):
            Client(f"http://127.0.0.1:{server.getsockname()[1]}").limits()
    assert not waits


def test_every_repetition_is_logged(contract, waits, caplog):
    contract.script = [None, BUSY]
    Client(contract.url).limits()
    broken, busy = (record.getMessage() for record in caplog.records)
    assert f"GET {contract.url}/limits: 429 queue-full: Busy." in busy
    assert "try 3 of 9 follows in 1.0 s" in busy and "try 2 of 9" in broken


@pytest.mark.parametrize("url", ["127.0.0.1:3000", "ftp://host", "http://"])
def test_a_url_that_is_none(url):
    with pytest.raises(ValueError, match="URL"):
        Client(url)


def test_a_prefix_and_headers_go_with_every_request(contract):
    client = Client(f"{contract.url}/prefix/", headers={"Authorization": "Bearer 1"})
    with pytest.raises(ProblemError):
        client.limits()
    assert contract.requests[0][:2] == ("GET", "/prefix/limits")


@pytest.mark.parametrize(
    "credentials, options, expected",
    [
        ("name:p%40ss@", {}, "Basic bmFtZTpwQHNz"),
        ("", {"api_key": "key"}, "Bearer key"),
        ("", {"headers": {"authorization": "Bearer 1"}}, "Bearer 1"),
    ],
)
def test_credentials_are_sent_and_never_shown(contract, credentials, options, expected):
    client = Client(contract.url.replace("//", f"//{credentials}"), **options)
    client.limits()
    assert contract.headers[-1]["Authorization"] == expected
    assert client.url == contract.url
    contract.script = [(500, {})]
    with pytest.raises(ProblemError) as caught:
        client.limits()
    assert contract.url in str(caught.value) and "p%40ss" not in str(caught.value)


def test_two_credentials_are_refused():
    with pytest.raises(ValueError, match="the URL each hold credentials"):
        Client("http://name:word@127.0.0.1:1", api_key="key")


def test_the_progress_bar_is_for_terminals_and_big_uploads(monkeypatch, capsys):
    def drawn(total):
        with UploadBar("PUT", total, min_bytes=100) as bar:
            for _ in range(4):
                bar.advance(total // 4)
        return capsys.readouterr().err

    assert drawn(400) == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert drawn(40) == ""
    assert "[########################]" in drawn(400)
    monkeypatch.setattr(sys, "stderr", None)
    with UploadBar("PUT", 400, min_bytes=100) as bar:
        bar.advance(400)
