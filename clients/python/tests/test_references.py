"""Frozen weights travel once; what the service lost is sent again."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import problems
import pytest
import torch
import truth
from contract_service import ContractService, Problem

from loragrad import Client, ProblemError
from loragrad.references import Reference
from loragrad.tensors import to_wire

# Weights of 32 KiB and 16 KiB; everything else is smaller than that.
BIG = {"d_in": 128, "heads": 4, "kv_heads": 2, "head_dim": 16, "length": 8, "batch": 1}


def call(client, problem):
    x, projections, grad, layer = problem
    return client.gradient(
        hidden_states=x, **projections, grad_output=grad, **problems.request_of(layer)
    )


def check(result, problem):
    x, projections, grad, layer = problem
    expected, *_ = truth.gradients(x, projections, grad, **layer)
    for name, pair in expected.items():
        for part, value in pair.items():
            assert truth.relative(result.gradients[name][part], value) < 1e-5


def test_the_hash_is_that_of_the_contract():
    values = np.array([[1.5, -2, 3]], dtype="<f4")
    expected = hashlib.sha256(b"float32\n1,3\n" + values.tobytes()).hexdigest()
    assert Reference.of(to_wire(values)).sha256 == expected
    assert Reference.of(to_wire(torch.from_numpy(values))).sha256 == expected


def test_weights_are_sent_once(client, needs):
    needs("store")
    problem = problems.make(seed=1, **BIG)
    weights = sum(fields["weight"].nbytes for fields in problem[1].values())
    sent = []
    for _ in range(3):
        before = client.traffic.bytes_sent
        check(call(client, problem), problem)
        sent.append(client.traffic.bytes_sent - before)
    first, second, third = sent
    assert second == third and abs(first - second - weights) < 400


def test_another_client_asks_before_it_uploads(contract):
    problem = problems.make(**BIG)
    call(Client(contract.url), problem)
    contract.requests.clear()
    call(Client(contract.url), problem)
    methods = [method for method, *_ in contract.requests]
    assert methods == ["GET", "HEAD", "HEAD", "HEAD", "POST"]


def test_what_the_service_lost_is_sent_again(contract):
    problem = problems.make(**BIG)
    client = Client(contract.url)
    call(client, problem)
    lost = next(iter(contract.stored))
    del contract.stored[lost]
    contract.requests.clear()
    check(call(client, problem), problem)
    methods = [(method, path) for method, path, _ in contract.requests]
    where = f"/tensors/{lost}"
    assert methods == [
        ("POST", "/gradient"),
        ("HEAD", where),
        ("PUT", where),
        ("POST", "/gradient"),
    ]


def test_a_store_smaller_than_a_request_is_given_up():
    problem = problems.make(**BIG)
    with ContractService(store_bytes=40_000) as service:
        client = Client(service.url)
        check(call(client, problem), problem)
        for _ in range(2):
            check(call(client, problem), problem)
        service.requests.clear()
        check(call(client, problem), problem)
        assert [method for method, *_ in service.requests] == ["POST"]


def test_a_restart_of_the_service_is_no_reason_to_give_up(contract):
    problem = problems.make(**BIG)
    client = Client(contract.url)
    for _ in range(4):
        call(client, problem)
        call(client, problem)
        contract.stored.clear()
    assert "$ref" in contract.bodies[-1]["q_proj"]["weight"]


def test_threads_that_meet_one_restart_lose_a_tensor_once(contract):
    problem = problems.make(**BIG)
    client = Client(contract.url)
    call(client, problem)
    for _ in range(3):
        contract.stored.clear()
        with ThreadPoolExecutor(4) as threads:
            for result in threads.map(lambda _: call(client, problem), range(8)):
                check(result, problem)
    call(client, problem)
    assert "$ref" in contract.bodies[-1]["q_proj"]["weight"]


def test_a_service_that_misses_what_was_never_left_out_is_not_asked_for_ever(contract, monkeypatch):
    problem = problems.make(**BIG)
    everything = [
        f"sha256:{Reference.of(to_wire(fields['weight'])).sha256}" for fields in problem[1].values()
    ]

    def refuse(path, body):
        raise Problem(409, "missing-tensors", "PUT them.", missing=everything)

    monkeypatch.setattr(contract, "post", refuse)
    with pytest.raises(ProblemError, match="missing-tensors"):
        call(Client(contract.url), problem)
    assert len(contract.requests) < 20


def test_a_tensor_larger_than_the_store_travels_with_its_request():
    problem = problems.make(**{**BIG, "heads": 8})
    with ContractService(store_bytes=40_000) as service:
        check(call(Client(service.url), problem), problem)
        assert "data" in service.bodies[-1]["q_proj"]["weight"]
        assert "$ref" in service.bodies[-1]["v_proj"]["weight"]


def test_services_without_a_store_and_clients_without_references():
    problem = problems.make(**BIG)
    with ContractService(features=()) as service:
        check(call(Client(service.url), problem), problem)
    with ContractService() as service:
        check(call(Client(service.url, references=False), problem), problem)
        assert not service.stored


def changed_through_data(weight):
    weight.data[0, 1] += 1


def changed_through_a_view(weight):
    weight.numpy()[0, 1] += 1


def replaced(weight):
    weight.data = weight.flip(0)


@pytest.mark.parametrize("change", [changed_through_data, changed_through_a_view, replaced])
def test_a_weight_changed_behind_its_version_is_sent_again(client, needs, change):
    """One element of many, where neither identity nor version nor a sample of elements tells."""
    needs("store")
    problem = problems.make(seed=2, **BIG)
    call(client, problem)
    weight = problem[1]["q_proj"]["weight"]
    version = weight._version
    change(weight)
    assert change is replaced or weight._version == version
    check(call(client, problem), problem)
