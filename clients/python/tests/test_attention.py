"""loragrad.torch.attention against autograd through the plain formula in float64."""

import problems
import pytest
import torch
import truth

from loragrad import Client, UnsupportedError
from loragrad.torch import attention

LIMITS = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def run(client, x, projections, grad, layer, **options):
    """Gradients of the adapters and of x, and the output, through the client."""
    x = x.clone().requires_grad_()
    leaves = {
        name: {
            key: value.clone().requires_grad_() if key in ("lora_A", "lora_B") else value
            for key, value in fields.items()
        }
        for name, fields in projections.items()
    }
    output = attention(client, x, **leaves, **problems.request_of(layer), **options)
    output.backward(grad)
    adapters = {
        name: {part: fields[part].grad for part in ("lora_A", "lora_B")}
        for name, fields in leaves.items()
        if "lora_A" in fields
    }
    return adapters, x.grad, output


def check(measured, expected, dtype):
    (adapters, grad_x, output), (true_adapters, true_grad_x, true_output, _) = measured, expected
    assert output.dtype == grad_x.dtype == dtype
    assert truth.relative(output.detach(), true_output) < LIMITS[dtype]
    assert truth.relative(grad_x, true_grad_x) < LIMITS[dtype]
    for name, pair in true_adapters.items():
        for part, value in pair.items():
            error = truth.relative(adapters[name][part], value)
            assert error < LIMITS[dtype], f"{name}.{part}: {error:.1e}"


@pytest.mark.parametrize("input_gradients", ["local", "service"])
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_dtypes(client, needs, dtype, input_gradients):
    if input_gradients == "service":
        needs("input_gradients")
    problem = problems.make(dtype=dtype, bias=("k_proj",))
    x, projections, grad, layer = problem
    measured = run(client, *problem, input_gradients=input_gradients)
    check(measured, truth.gradients(x, projections, grad, **layer), dtype)


@pytest.mark.parametrize("adapted", [("q_proj",), ("k_proj",), ("q_proj", "v_proj")])
@pytest.mark.parametrize("heads, kv_heads", [(1, 1), (4, 4), (6, 2)])
def test_head_layouts(client, heads, kv_heads, adapted):
    problem = problems.make(heads=heads, kv_heads=kv_heads, adapted=adapted, batch=1)
    x, projections, grad, layer = problem
    check(run(client, *problem), truth.gradients(x, projections, grad, **layer), torch.float32)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("input_gradients", ["local", "service"])
def test_rotary_and_padding(client, needs, padded, input_gradients):
    needs(
        "rotary", *["key_lengths"] * padded, *["input_gradients"] * (input_gradients == "service")
    )
    problem = problems.make(rotary=True)
    x, projections, grad, layer = problem
    if padded:
        layer["key_lengths"] = [x.shape[1], 7]
    measured = run(client, *problem, input_gradients=input_gradients)
    check(measured, truth.gradients(x, projections, grad, **layer), torch.float32)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (4, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_no_worse_than_pytorch_in_the_same_dtype(client, needs, dtype, heads, kv_heads, padded):
    """Error of everything together, against float64, beside that of the plain formula in the dtype.

    Three times for float32, which both compute in; half precision rounds here only what it answers.
    """
    needs("rotary", "key_lengths", "input_gradients")
    problem = problems.make(dtype=dtype, heads=heads, kv_heads=kv_heads, head_dim=8, rotary=True)
    x, projections, grad, layer = problem
    if padded:
        layer["key_lengths"] = [11, x.shape[1]]
    expected = truth.gradients(x, projections, grad, **layer)
    plain = truth.gradients(x, projections, grad, dtype=dtype, **layer)
    measured = run(client, *problem)
    times = 3 if dtype == torch.float32 else 1
    for part in (0, 1):
        error, yardstick = (
            truth.relative(flat(answer[part]), flat(expected[part])) for answer in (measured, plain)
        )
        assert error <= times * yardstick, f"{error:.1e}, PyTorch {yardstick:.1e}"


def flat(value):
    """Tensors, however nested in maps, as one vector of float64."""
    if isinstance(value, dict):
        return torch.cat([flat(item) for item in value.values()])
    return value.double().flatten()


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("place", ["local", "service"])
def test_low_rank_keeps_its_tolerance(real_url, place, rotary):
    """Long enough for low-rank, small logits; forward and backward by the same method."""
    tolerance = 0.02
    x, projections, grad, layer = problems.make(
        length=1024, d_in=24, heads=2, kv_heads=1, head_dim=8, batch=1, rotary=rotary
    )
    problem = (0.15 * x, projections, grad, layer)
    told = []
    with Client(real_url) as client:
        adapters, grad_x, output = run(
            client,
            *problem,
            method="low_rank",
            tolerance=tolerance,
            forward=place,
            input_gradients=place,
            listener=lambda result, _: told.append(result),
        )
    assert [result.method for result in told] == ["low_rank"]
    true_adapters, true_grad_x, true_output, _ = truth.gradients(*problem[:3], **layer)
    assert truth.relative(output.detach(), true_output) < tolerance
    assert truth.relative(grad_x, true_grad_x) < tolerance
    for name, pair in true_adapters.items():
        for part, value in pair.items():
            error = truth.relative(adapters[name][part], value)
            assert error <= told[0].error[f"{name}.{part}"].bound <= tolerance


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("input_gradients", ["local", "service"])
def test_gradcheck_in_float64(client, needs, input_gradients, positions):
    """Finite differences of the local output against gradients that the service computes in float64."""
    if input_gradients == "service":
        needs("input_gradients")
    x, projections, _, layer = problems.make(
        dtype=torch.float64,
        batch=2 if positions else 1,
        length=5,
        d_in=6,
        heads=2,
        kv_heads=1,
        head_dim=4,
        rank=2,
        rotary=positions,
    )
    if positions:
        needs("rotary", "key_lengths")
        layer["key_lengths"] = [5, 3]
    names = [(name, part) for name in projections for part in ("lora_A", "lora_B")]
    leaves = [projections[name][part].clone().requires_grad_() for name, part in names]

    def function(x, *adapters):
        fields = {name: dict(value) for name, value in projections.items()}
        for (name, part), tensor in zip(names, adapters, strict=True):
            fields[name][part] = tensor
        # A tolerance that float32 cannot keep.
        return attention(
            client,
            x,
            **fields,
            **problems.request_of(layer),
            tolerance=1e-9,
            forward="local",
            input_gradients=input_gradients,
        )

    assert torch.autograd.gradcheck(function, (x.clone().requires_grad_(), *leaves), atol=1e-6)


def test_the_answer_is_told_and_only_what_is_needed_is_computed(client):
    x, projections, grad, layer = problems.make()
    told = []
    projections["q_proj"]["lora_A"].requires_grad_()
    output = attention(
        client,
        x,
        **projections,
        **problems.request_of(layer),
        listener=lambda result, cost: told.append((result, cost)),
    )
    output.backward(grad)
    ((result, cost),) = told
    assert result.method in ("exact", "low_rank")
    assert cost.bytes_sent > x.nbytes + grad.nbytes
    assert projections["q_proj"]["lora_B"].grad is None
    expected, *_ = truth.gradients(x, projections, grad, **layer)
    measured = projections["q_proj"]["lora_A"].grad
    assert truth.relative(measured, expected["q_proj"]["lora_A"]) < 1e-5


def test_overflow_comes_out_as_it_went_in(contract):
    """As loss scaling needs it: no request, NaN gradients."""
    x, projections, grad, layer = problems.make()
    grad[0, 0, 0] = torch.inf
    adapters, grad_x, _ = run(Client(contract.url), x, projections, grad, layer)
    assert adapters["q_proj"]["lora_A"].isnan().all() and grad_x.isnan().all()
    assert not [path for _, path, _ in contract.requests if path == "/gradient"]


def test_a_gradient_too_large_for_its_dtype_comes_out_as_overflow(client):
    x, projections, grad, layer = problems.make()
    for fields in projections.values():
        fields |= {name: t.half() for name, t in fields.items() if name in ("lora_A", "lora_B")}
    adapters, *_ = run(client, x, projections, grad * 1e6, layer)
    assert adapters["q_proj"]["lora_A"].isnan().all()


def test_no_graph_without_gradients(contract):
    x, projections, _, layer = problems.make()
    with torch.no_grad():
        output = attention(Client(contract.url), x, **projections, **problems.request_of(layer))
    assert not output.requires_grad


def test_weights_must_be_frozen(contract):
    x, projections, _, layer = problems.make()
    projections["k_proj"]["weight"].requires_grad_()
    with pytest.raises(UnsupportedError, match=r"k_proj\.weight"):
        attention(Client(contract.url), x, **projections, **problems.request_of(layer))


def test_what_an_old_service_cannot_do_is_said():
    from contract_service import ContractService

    x, projections, _, layer = problems.make()
    x.requires_grad_()
    with ContractService(features=("rotary",)) as service:
        client = Client(service.url)
        for place in ({"forward": "service"}, {"input_gradients": "service"}):
            with pytest.raises(UnsupportedError):
                attention(client, x, **projections, **problems.request_of(layer), **place)
