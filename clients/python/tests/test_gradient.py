"""Client.gradient, .plan, .forward: numbers, types, devices and dtypes."""

import numpy as np
import problems
import pytest
import torch
import truth

from loragrad import Client, ProblemError

# Rounding of the answer to its dtype, and of float32 arithmetic.
LIMITS = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def check(result, expected, dtype):
    assert result.gradients.keys() == expected.keys()
    for name, pair in expected.items():
        for part, value in pair.items():
            measured = result.gradients[name][part]
            assert measured.dtype == dtype and measured.shape == value.shape
            error = truth.relative(measured, value)
            assert error < LIMITS[dtype], f"{name}.{part}: {error:.1e}"


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_torch_tensors_of_every_dtype(client, dtype):
    x, projections, grad, layer = problems.make(dtype=dtype)
    result = client.gradient(
        hidden_states=x, **projections, grad_output=grad, **problems.request_of(layer)
    )
    expected, *_ = truth.gradients(x, projections, grad, **layer)
    check(result, expected, dtype)
    assert result.method == "exact" and not result.fallback
    # What is told includes the rounding to the dtype of the answer.
    assert result.error_bound < max(1e-4, 2 * LIMITS[dtype])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_numpy_arrays_come_back_as_numpy(client, dtype):
    x, projections, grad, layer = problems.make(dtype=getattr(torch, dtype))
    arrays = {
        name: {
            key: getattr(value, "numpy", lambda value=value: value)()
            for key, value in fields.items()
        }
        for name, fields in projections.items()
    }
    result = client.gradient(
        hidden_states=x.numpy(), **arrays, grad_output=grad.numpy(), **problems.request_of(layer)
    )
    gradient = result.gradients["k_proj"]["lora_A"]
    assert isinstance(gradient, np.ndarray) and gradient.dtype == dtype
    assert gradient.flags.writeable
    expected, *_ = truth.gradients(x, projections, grad, **layer)
    error = truth.relative(torch.from_numpy(gradient), expected["k_proj"]["lora_A"])
    assert error < LIMITS[getattr(torch, dtype)]


@pytest.mark.parametrize("heads, kv_heads", [(1, 1), (4, 4), (4, 1), (6, 2)])
def test_head_layouts(client, heads, kv_heads):
    x, projections, grad, layer = problems.make(
        heads=heads, kv_heads=kv_heads, bias=("q_proj", "v_proj")
    )
    result = client.gradient(
        hidden_states=x, **projections, grad_output=grad, **problems.request_of(layer)
    )
    check(result, truth.gradients(x, projections, grad, **layer)[0], torch.float32)


def test_layouts_in_memory_do_not_matter(client):
    """Transposed and sliced views, big-endian arrays."""
    x, projections, grad, layer = problems.make()
    expected, *_ = truth.gradients(x, projections, grad, **layer)
    wide = torch.zeros(*x.shape[:2], 2 * x.shape[2])
    wide[..., ::2] = x
    weight = projections["q_proj"]["weight"]
    projections["q_proj"]["weight"] = weight.T.contiguous().T
    big_endian = grad.numpy().astype(">f4")
    result = client.gradient(
        hidden_states=wide[..., ::2],
        **projections,
        grad_output=big_endian,
        **problems.request_of(layer),
    )
    check(result, expected, torch.float32)


def test_target_loss_and_attention_output(client):
    x, projections, target, layer = problems.make(batch=1)
    result = client.gradient(
        hidden_states=x[0],
        **projections,
        target=target[0],
        outputs=["gradients", "attention_output"],
        **problems.request_of(layer),
    )
    expected, _, output, loss = truth.gradients(x, projections, target=target, **layer)
    check(result, expected, torch.float32)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert truth.relative(result.attention_output, output[0]) < 1e-5


def test_frozen_projections_have_no_gradient_and_numpy_scalars_are_numbers(client):
    x, projections, grad, layer = problems.make(adapted=("v_proj",))
    projections["v_proj"]["lora_alpha"] = np.float32(6)
    projections["q_proj"]["lora_A"] = None
    result = client.gradient(
        hidden_states=x, **projections, grad_output=grad, **problems.request_of(layer)
    )
    assert list(result.gradients) == ["v_proj"]
    assert {"v_proj.lora_A", "v_proj.lora_B"} <= result.error.keys()
    assert result.threshold.sequence_length == x.shape[1]


def test_rotary_padding_and_input_gradients(client, needs):
    needs("rotary", "key_lengths", "input_gradients")
    x, projections, grad, layer = problems.make(rotary=True)
    layer["key_lengths"] = [x.shape[1], 9]
    result = client.gradient(
        hidden_states=x,
        **projections,
        grad_output=grad,
        outputs=["gradients", "input_gradients"],
        **problems.request_of(layer),
    )
    expected, grad_x, *_ = truth.gradients(x, projections, grad, **layer)
    check(result, expected, torch.float32)
    assert truth.relative(result.input_gradients["hidden_states"], grad_x) < 1e-5


@pytest.mark.parametrize("correction", [False, True])
def test_low_rank_keeps_its_promise(client, needs, correction):
    """Small logits, as the method needs: the error is below what the answer states."""
    needs("low_rank", "correction")
    x, projections, grad, layer = problems.make(
        length=1024, d_in=24, heads=2, kv_heads=1, head_dim=8, batch=1
    )
    x = 0.15 * x
    result = client.gradient(
        hidden_states=x,
        **projections,
        grad_output=grad,
        method="low_rank",
        tolerance=0.02,
        correction=correction,
        seed=3,
        **problems.request_of(layer),
    )
    expected, *_ = truth.gradients(x, projections, grad, **layer)
    assert result.method == "low_rank"
    for name, pair in expected.items():
        for part, value in pair.items():
            error = truth.relative(result.gradients[name][part], value)
            assert error <= result.error[f"{name}.{part}"].bound <= 0.02
    assert result.seed == 3


def test_forward(client, needs):
    needs("forward")
    x, projections, _, layer = problems.make(dtype=torch.float64)
    result = client.forward(hidden_states=x, **projections, **problems.request_of(layer))
    expected = truth.attention(x, projections, **layer)
    assert result.attention_output.dtype == x.dtype
    assert truth.relative(result.attention_output, expected) < 1e-5


def test_respond_async_gives_the_same_answer(real_url):
    x, projections, grad, layer = problems.make()
    request = {"hidden_states": x, **projections, "grad_output": grad, **problems.request_of(layer)}
    with Client(real_url) as client:
        expected = client.gradient(**request)
        requests = client.traffic.requests
        result = client.gradient(respond_async=True, **request)
        assert client.traffic.requests > requests + 1
    for name, pair in expected.gradients.items():
        for part, value in pair.items():
            assert torch.equal(result.gradients[name][part], value)


def test_plan_needs_no_upstream_gradient(client):
    x, projections, _, layer = problems.make()
    result = client.plan(hidden_states=x, **projections, **problems.request_of(layer))
    assert result.method in ("exact", "low_rank") and result.reason
    assert result.threshold.below_threshold == (result.threshold.gamma < result.threshold.limit)


def test_limits(client):
    assert client.limits()["max_body_bytes"] > 0


def test_a_problem_is_an_error_with_its_pointer(real_url):
    x, projections, grad, layer = problems.make()
    projections["q_proj"]["lora_A"] = projections["q_proj"]["lora_A"][:, :-1]
    with pytest.raises(ProblemError, match="shape-mismatch") as caught:
        Client(real_url).gradient(
            hidden_states=x, **projections, grad_output=grad, **problems.request_of(layer)
        )
    assert caught.value.status == 422
    assert caught.value.type == "urn:loragrad:problem:shape-mismatch"
    assert caught.value.pointer == "/q_proj/lora_A"
    assert caught.value.instance


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3, dtype=torch.int64), np.zeros((2, 3), bool)])
def test_other_dtypes_are_refused_here(contract, wrong):
    with pytest.raises(TypeError, match=r"q_proj\.weight: .*float32"):
        Client(contract.url).plan(q_proj={"weight": wrong})
