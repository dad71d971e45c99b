"""The services that the tests run against: the contract in PyTorch, and the real one in Node."""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

# Before torch is imported, for the examples' processes too: on layers this small its threads would only
# take the processors from the service.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from contract_service import ContractService

from loragrad import Client

MAIN = Path(__file__).parents[3] / "dist" / "src" / "main.js"
# However busy the machine is.
START_SECONDS = 300


@pytest.fixture(scope="session")
def real_url(tmp_path_factory):
    """URL of a real service: the one that LORAGRAD_URL names, else one of this repository's build."""
    if "LORAGRAD_URL" in os.environ:
        yield os.environ["LORAGRAD_URL"]
        return
    node = shutil.which("node")
    if node is None or not MAIN.exists():
        pytest.skip(
            "the service is not built (npm ci && npm run build) and LORAGRAD_URL is not set"
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("service") / "log"
    environment = {**os.environ, "PORT": str(port), "LOG_LEVEL": "warn"}
    with log.open("wb") as output:
        process = subprocess.Popen([node, MAIN], env=environment, stdout=output, stderr=output)
        try:
            _wait(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait(START_SECONDS)


@pytest.fixture(scope="session")
def states_url(real_url):
    """The real service, where it takes attention states."""
    with Client(real_url) as client:
        if not client.capabilities().attention_states:
            pytest.skip("the service does not offer attention_states")
    return real_url


def _wait(url, process, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"The service ended: {log.read_text()}")
        try:
            urllib.request.urlopen(f"{url}/health/ready", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"The service is not ready after {START_SECONDS} s: {log.read_text()}")


@pytest.fixture
def contract():
    with ContractService() as service:
        yield service


@pytest.fixture(params=["contract", "real"])
def client(request):
    """A client of each service in turn."""
    if request.param == "real":
        url = request.getfixturevalue("real_url")
    else:
        url = request.getfixturevalue("contract").url
    with Client(url, timeout=120) as client:
        yield client


@pytest.fixture
def needs(client):
    """needs("rotary", ...): skips where the service does not offer it."""

    def check(*names):
        lacking = [name for name in names if not getattr(client.capabilities(), name)]
        if lacking:
            pytest.skip(f"the service does not offer {', '.join(lacking)}")

    return check
