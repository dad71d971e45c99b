"""loragrad.torch.attach: a PEFT model trains through the service as it does by itself."""

import copy
from contextlib import nullcontext

import pytest
import torch
import truth
from contract_service import ContractService
from counting_proxy import CountingProxy

from loragrad import Client, UnsupportedError

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from loragrad.torch import attach  # noqa: E402

TARGETS = ["q_proj", "k_proj", "v_proj"]


def make_model(targets=TARGETS, dtype=torch.float32, config=None, family="Llama", **lora):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    configuration = getattr(transformers, f"{family}Config")(**{**sizes, **(config or {})})
    base = getattr(transformers, f"{family}ForCausalLM")(configuration).to(dtype)
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, **lora)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
            if name.endswith("proj.base_layer.bias"):
                parameter.normal_(std=0.1)
    return model.train()


def make_batch(lengths=(16, 16)):
    torch.manual_seed(1)
    tokens = torch.randint(1, 64, (len(lengths), max(lengths)))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    labels = tokens.masked_fill(mask == 0, -100)
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def train_once(model, batch):
    """The loss and every gradient of one backward pass."""
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def compare(model, client, batch=None, limit=1e-4, **options):
    """Trains by itself and attached; the gradients agree. Returns the step."""
    batch = batch or make_batch()
    loss, expected = train_once(model, batch)
    with attach(model, client, **options) as handle:
        service_loss, measured = train_once(model, batch)
    assert service_loss == pytest.approx(loss, rel=1e-6)
    assert measured.keys() == expected.keys()
    for name, value in expected.items():
        assert measured[name].dtype == value.dtype
        error = truth.relative(measured[name], value.double())
        assert error < limit, f"{name}: {error:.1e}"
    return handle.last_step


@pytest.fixture
def service(client, needs):
    needs("rotary", "key_lengths")
    return client


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], TARGETS, ["k_proj"]], ids="-".join)
@pytest.mark.parametrize("input_gradients", ["local", "service"])
def test_gradients_are_those_of_autograd(service, needs, targets, input_gradients):
    if input_gradients == "service":
        needs("input_gradients")
    step = compare(make_model(targets), service, input_gradients=input_gradients)
    assert list(step.layers) == [
        f"base_model.model.model.layers.{layer}.self_attn" for layer in (1, 0)
    ]
    assert sum(step.methods.values()) == 2
    assert step.error_bound < 1e-3
    assert step.bytes_sent > 0


@pytest.mark.parametrize("input_gradients", ["local", "service"])
def test_the_gradients_are_the_service_s_and_nobody_else_s(contract, monkeypatch, input_gradients):
    """A service that answers zeros: adapters of q, k and v get zeros, those of o_proj what is theirs."""
    answer = contract.post

    def zeros(path, body):
        result = answer(path, body)
        for pair in result["gradients"].values():
            for tensor in pair.values():
                tensor["data"] = bytes(len(tensor["data"]))
        return result

    monkeypatch.setattr(contract, "post", zeros)
    model = make_model([*TARGETS, "o_proj"])
    _, expected = train_once(model, make_batch())
    with attach(model, contract.url, input_gradients=input_gradients):
        _, measured = train_once(model, make_batch())
    assert measured.keys() == expected.keys()
    for name, value in measured.items():
        if "o_proj" in name:
            assert truth.relative(value, expected[name].double()) < 1e-4
        else:
            assert not value.any() and expected[name].any()


@pytest.mark.parametrize("dtype, limit", [(torch.bfloat16, 4e-2), (torch.float16, 1e-2)], ids=str)
def test_half_precision(service, dtype, limit):
    """As far as two ways of rounding agree: PyTorch's own layer rounds after every operation."""
    compare(make_model(dtype=dtype), service, limit=limit)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_padding_on_the_right(service, implementation):
    model = make_model(config={"attn_implementation": implementation})
    compare(model, service, make_batch((16, 9, 1)))


def test_other_adapters_and_rslora_are_left_alone(service):
    targets = [*TARGETS, "o_proj", "up_proj"]
    compare(make_model(targets, use_rslora=True, config={"attention_bias": True}), service)


def test_mistral_and_qwen2(service):
    compare(make_model(family="Mistral", config={"sliding_window": None}), service)
    compare(make_model(family="Qwen2"), service)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(service, reentrant):
    model = make_model()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    step = compare(model, service)
    assert len(step.layers) == 2


def test_gradients_accumulate_and_a_step_is_one_backward_pass(service):
    model, batch = make_model(), make_batch()
    for _ in range(2):
        model(**batch).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    reports = []
    with attach(model, service, on_report=reports.append) as handle:
        for _ in range(2):
            model(**batch).loss.backward()
        assert len(handle.last_step.layers) == 2
    assert len(reports) == 4
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert truth.relative(parameter.grad, expected[name].double()) < 1e-4


def test_autocast(service):
    model = make_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compare(model, service, limit=6e-2)


def test_every_call_draws_with_its_own_seed(contract):
    model = make_model()
    with attach(model, contract.url, seed=7, correction=True):
        train_once(model, make_batch())
        train_once(model, make_batch())
    gradients = [body for body in contract.bodies if "grad_output" in body]
    assert len({body["seed"] for body in gradients}) == 4
    assert all(body["correction"] for body in gradients)


def test_weights_travel_once(contract):
    model = make_model()
    batch = make_batch()
    with attach(model, contract.url) as handle:
        sent = []
        for _ in range(3):
            train_once(model, batch)
            sent.append(handle.last_step.bytes_sent)
    assert sent[1] == sent[2] < sent[0]
    for body in contract.bodies:
        assert "$ref" in body["q_proj"]["weight"]


def test_bytes_at_the_socket(real_url):
    """A step sends states, upstream gradients and adapters; frozen weights only the first does."""
    model, batch = make_model(config={"hidden_size": 128}), make_batch((16, 16))
    frozen, adapters = 0, 0
    # Other weights in every run: a service that has been asked before holds none of them.
    torch.seed()
    for name, parameter in model.named_parameters():
        if "self_attn" in name and "o_proj" not in name:
            if parameter.requires_grad:
                adapters += parameter.nbytes
            else:
                frozen += torch.nn.init.normal_(parameter, std=0.1).nbytes
    # hidden_states and grad_output of two layers, each (2, 16, 128) of float32.
    step = adapters + 2 * 2 * 4 * 2 * 16 * 128
    # Names, shapes and options, HTTP headers, and rotary tables too small for a reference.
    overhead = 2 * 6000
    with CountingProxy(real_url) as proxy, attach(model, proxy.url) as handle:
        counts = []
        for _ in range(4):
            train_once(model, batch)
            counts.append(proxy.sent())
        assert handle.last_step.bytes_sent <= counts[-1] <= handle.last_step.bytes_sent + 2 * 500
    assert frozen + step < counts[0] < frozen + step + 2 * overhead
    for count in counts[1:]:
        assert step < count < step + overhead < frozen


def test_evaluation_generation_and_detached_models_ask_nothing(contract):
    model = make_model()
    handle = attach(model, contract.url)
    with torch.no_grad():
        model(**make_batch())
    model.eval().generate(input_ids=torch.ones(1, 4, dtype=torch.long), max_new_tokens=3)
    handle.detach()
    handle.detach()
    train_once(model.train(), make_batch())
    assert not contract.bodies
    assert "forward" not in vars(model.base_model.model.model.layers[0].self_attn)


def test_a_copy_of_a_detached_model_is_whole(contract):
    model = make_model()
    attach(model, contract.url).detach()
    twin = copy.deepcopy(model)
    assert all(p.requires_grad for n, p in twin.named_parameters() if "lora_" in n)


def test_overflow_is_skipped_by_loss_scaling(contract):
    model, batch = make_model(), make_batch()
    with attach(model, contract.url) as handle:
        (model(**batch).loss * torch.inf).backward()
    assert handle.last_step.methods == {"skipped": 2}
    assert handle.last_step.error_bound is None
    assert "2 skipped" in str(handle.last_step)


def test_metrics_are_flat_numbers(contract):
    model = make_model()
    with attach(model, contract.url) as handle:
        train_once(model, make_batch())
    metrics = handle.last_step.metrics()
    assert metrics["loragrad/layers_exact"] == 2
    assert metrics["loragrad/error_bound"] == 3e-7
    assert all(isinstance(value, (int, float)) for value in metrics.values())


def packed_positions():
    return {
        "input_ids": torch.ones(1, 8, dtype=torch.long),
        "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]]),
        # With a cache, which is the default, Transformers does not look for packing.
        "use_cache": False,
    }


@pytest.mark.parametrize(
    "batch, reason",
    [
        (
            make_batch((16, 16))
            | {"attention_mask": make_batch((16, 9))["attention_mask"].flip(1)},
            "right",
        ),
        (packed_positions(), "packed"),
        (
            make_batch((8, 8)) | {"position_ids": torch.arange(8) + torch.tensor([[0], [3]])},
            "positions",
        ),
    ],
    ids=["left-padding", "packed", "positions"],
)
def test_batches_that_are_not_supported(contract, batch, reason):
    model = make_model()
    with attach(model, contract.url), pytest.raises(UnsupportedError, match=reason):
        model(**batch)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"lora_dropout": 0.1}, "lora_dropout"),
        ({"use_dora": True}, "LoRA|DoRA|Dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all", "config": {"attention_bias": True}}, r"bias requires"),
        ({"config": {"attention_dropout": 0.1}}, "attention_dropout"),
        ({"family": "Qwen3"}, "q_norm"),
        ({"family": "Mistral", "config": {"sliding_window": 8}}, "sliding window"),
        ({"family": "Gemma2"}, "softcapping"),
        (
            {"family": "Phi3", "targets": ["o_proj"], "config": {"pad_token_id": 0}},
            "no attention layer",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_models_that_are_not_supported(contract, options, reason):
    model = make_model(**options)
    expected = ValueError if "no attention" in reason else UnsupportedError
    with pytest.raises(expected, match=reason):
        attach(model, contract.url)
        model(**make_batch())


def test_attention_that_computes_something_else_is_found_out(contract, monkeypatch):
    """Whatever it is: here the rotary positions of a model that interleaves its halves."""
    from transformers.models.llama import modeling_llama

    def interleaved(x):
        return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)

    model = make_model()
    monkeypatch.setattr(modeling_llama, "rotate_half", interleaved)
    with attach(model, contract.url), pytest.raises(UnsupportedError, match="other attention"):
        model(**make_batch())


def test_several_and_merged_adapters(contract):
    model = make_model()
    model.merge_adapter()
    with pytest.raises(UnsupportedError, match="merged"):
        attach(model, contract.url)
    model.unmerge_adapter()
    model.add_adapter("other", peft.LoraConfig(r=2, target_modules=TARGETS))
    with attach(model, contract.url):
        model.base_model.set_adapter(["default", "other"])
        with pytest.raises(UnsupportedError, match="several"):
            model(**make_batch())


def test_attached_twice(contract):
    model = make_model()
    with attach(model, contract.url):
        with pytest.raises(ValueError, match="already"):
            attach(model, contract.url)
        train_once(model, make_batch())
    attach(model, contract.url).detach()


def test_replicas_of_data_parallel(contract):
    """As nn.DataParallel makes them; without several devices it makes none."""
    model = make_model()
    attention = model.base_model.model.model.layers[0].self_attn
    with attach(model, contract.url), pytest.raises(UnsupportedError, match="DataParallel"):
        attention._replicate_for_data_parallel()(torch.ones(1, 4, 32))


def test_of_two_adapters_the_active_one_trains(service):
    model = make_model()
    model.add_adapter(
        "other", peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    for name in ("other", "default"):
        model.set_adapter(name)
        compare(model, service)
    model.set_adapter("other")
    with attach(model, service):
        _, gradients = train_once(model, make_batch())
    assert gradients and all(".other." in name for name in gradients)


def test_evaluation_mode_with_gradients(service):
    """As for attributions: eval() turns dropout off, not gradients."""
    compare(make_model().eval(), service)


def test_distributed_data_parallel(service, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        model = make_model()
        _, expected = train_once(model, make_batch())
        with attach(model, service):
            twin = torch.nn.parallel.DistributedDataParallel(model)
            _, measured = train_once(twin, make_batch())
        for name, value in measured.items():
            assert truth.relative(value, expected[name.removeprefix("module.")].double()) < 1e-4
    finally:
        torch.distributed.destroy_process_group()


def test_an_overflow_of_the_forward_pass_is_not_taken_for_other_attention(contract):
    model = make_model()
    with torch.no_grad():
        model.base_model.model.model.layers[0].self_attn.v_proj.base_layer.weight.fill_(torch.inf)
    with attach(model, contract.url):
        model(**make_batch())


def test_attach_is_all_or_nothing(contract):
    model = make_model()
    last = model.base_model.model.model.layers[1].self_attn
    last.attention_dropout = 0.5
    with pytest.raises(UnsupportedError):
        attach(model, contract.url)
    first = model.base_model.model.model.layers[0].self_attn
    assert "forward" not in vars(first)


@pytest.mark.parametrize(
    "features, batch, reason",
    [
        ((), (8, 8), "rotary"),
        (("rotary",), (8, 5), "padded"),
        (("rotary",), (8, 8), None),
    ],
)
def test_services_that_are_older(features, batch, reason):
    model = make_model()
    refusal = pytest.raises(UnsupportedError, match=reason) if reason else nullcontext()
    with ContractService(features=features) as service, refusal:
        compare(model, Client(service.url), make_batch(batch))
