"""A client that has been used crosses into other processes and threads."""

import multiprocessing
import os
import pickle
import threading

import problems
import pytest
import torch
import truth

from loragrad import Client
from loragrad.processes import restart_in_children

FORKS = "fork" in multiprocessing.get_all_start_methods()


def gradient_is_right(client, seed):
    """Whether the answer is that of this request and of no other."""
    x, projections, grad, layer = problems.make(seed=seed)
    result = client.gradient(
        hidden_states=x, **projections, grad_output=grad, **problems.request_of(layer)
    )
    expected, *_ = truth.gradients(x, projections, grad, **layer)
    measured = result.gradients["q_proj"]["lora_A"]
    return truth.relative(measured, expected["q_proj"]["lora_A"]) < 1e-5


def rank(client, first, answers):
    torch.set_num_threads(1)
    answers.put([gradient_is_right(client, seed) for seed in range(first, first + 8)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_client_that_has_been_used(real_url, method):
    if method == "fork" and not FORKS:
        pytest.skip("this system has no fork")
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    client = Client(real_url)
    assert gradient_is_right(client, 0)
    ranks = [context.Process(target=rank, args=(client, 10 * n, answers)) for n in (1, 2)]
    for process in ranks:
        process.start()
    assert gradient_is_right(client, 0)
    results = [answers.get(timeout=300) for _ in ranks]
    for process in ranks:
        process.join(300)
    assert results == [[True] * 8] * 2


@pytest.mark.skipif(not FORKS, reason="this system has no fork")
def test_a_fork_in_the_middle_of_a_request_leaves_no_lock_behind(contract):
    """Every lock of the client is held when the process forks; the child works all the same."""
    client = Client(contract.url)
    client.limits()
    transport = client._transport
    with transport._lock, transport._connections._lock, client._store._lock:
        process = multiprocessing.get_context("fork").Process(target=client.limits)
        process.start()
        process.join(20)
        stuck = process.is_alive()
        if stuck:
            process.kill()
    assert not stuck and process.exitcode == 0


class FromWorkers(torch.utils.data.Dataset):
    """Items that need the service, as features computed on the fly do."""

    def __init__(self, client):
        self.client = client

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return gradient_is_right(self.client, index)


def test_workers_of_a_data_loader_share_a_client(real_url):
    torch.set_num_threads(1)
    client = Client(real_url)
    assert gradient_is_right(client, 0)
    loader = torch.utils.data.DataLoader(FromWorkers(client), batch_size=2, num_workers=2)
    assert torch.cat(list(loader)).all()


def test_threads_have_connections_of_their_own(contract):
    client = Client(contract.url)
    barrier = threading.Barrier(3)

    def call():
        barrier.wait()
        assert client.limits() and client.limits()

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contract.connections == 3


def test_a_pickled_client_is_one_for_the_same_service(contract):
    client = Client(contract.url, api_key="key", retries=1)
    client.limits()
    twin = pickle.loads(pickle.dumps(client))
    assert twin.limits() and twin.url == client.url
    assert contract.headers[-1]["Authorization"] == "Bearer key"
    assert twin.traffic.requests == 1


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system has no fork")
def test_what_is_gone_is_not_told_of_a_fork():
    class Item:
        def after_fork(self):
            os._exit(1)

    restart_in_children(Item())
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join(20)
    assert process.exitcode == 0
