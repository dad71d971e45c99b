"""Client.gradient of attention states: query, key and value in place of hidden states and projections."""

import numpy as np
import pytest
import torch
import truth

LIMITS = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
MASKS = {
    "none": {},
    "causal": {"is_causal": True},
    "window": {"is_causal": True, "window": [5, 0]},
    "window both ways": {"window": [3, 2]},
    "padding": {"key_lengths": [17, 9], "first_keys": [4, 0]},
    "packing": {"is_causal": True, "sequence_lengths": [3, 10, 4]},
    "packing by item": {"is_causal": True, "sequence_lengths": [[17], [8, 9]]},
    "an item of padding alone": {"is_causal": True, "key_lengths": [17, 0]},
    "soft cap": {"is_causal": True, "softcap": 2.0, "scaling": 0.7},
}


def make(dtype=torch.float32, rows=17, keys=17, width=6, value_width=5, sinks=False):
    random = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype)

    tensors = {
        "query": normal(2, rows, 4, width),
        "key": normal(2, keys, 2, width),
        "value": normal(2, keys, 2, value_width),
    }
    if sinks:
        tensors["sinks"] = normal(4)
    return tensors, normal(2, rows, 4, value_width)


def check(result, expected, dtype):
    assert result.gradients.keys() == expected.keys() == result.error.keys()
    for name, value in expected.items():
        measured = result.gradients[name]
        assert measured.dtype == dtype and measured.shape == value.shape
        assert truth.relative(measured, value) < LIMITS[dtype], name
        assert result.error[name].estimate.upper < 0.02


@pytest.fixture
def states_client(client, needs):
    needs("attention_states")
    return client


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_masks(states_client, mask, sinks):
    tensors, grad = make(sinks=sinks)
    result = states_client.gradient(**tensors, grad_output=grad, **MASKS[mask])
    expected, _ = truth.states_gradients(tensors, grad, **MASKS[mask])
    check(result, expected, torch.float32)


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_dtypes_and_cross_attention(states_client, dtype):
    tensors, grad = make(dtype, rows=7, keys=12)
    result = states_client.gradient(**tensors, grad_output=grad)
    check(result, truth.states_gradients(tensors, grad)[0], dtype)


def test_numpy_arrays_and_numbers(states_client):
    tensors, grad = make()
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    lengths = np.array([17, 11])
    result = states_client.gradient(**arrays, grad_output=grad.numpy(), key_lengths=lengths)
    expected, _ = truth.states_gradients(tensors, grad, key_lengths=lengths.tolist())
    measured = {name: torch.from_numpy(value) for name, value in result.gradients.items()}
    for name, value in expected.items():
        assert truth.relative(measured[name], value) < 1e-5
