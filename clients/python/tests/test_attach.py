"""loragrad.torch.attach: a model trains through the service as it does by itself."""

import copy
import io
import pickle
import threading

import pytest
import torch
import truth
from counting_proxy import CountingProxy

from loragrad import ProblemError, ServiceUnreachable, UnsupportedError

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from models import ATTENTION, make_batch, make_model, packed_batch, train_once  # noqa: E402

from loragrad.torch import attach  # noqa: E402
from loragrad.transformers import register  # noqa: E402
from loragrad.transformers.interface import attention  # noqa: E402


def compare(model, client, batch=None, limit=1e-4, train=train_once, **options):
    """Trains by itself and attached; the gradients agree. Returns the step."""
    batch = batch or make_batch()
    loss, expected = train(model, batch)
    with attach(model, client, minimum_length=0, **options) as handle:
        service_loss, measured = train(model, batch)
    assert service_loss == pytest.approx(loss, rel=1e-5 if limit < 1e-3 else 1e-2)
    check(measured, expected, limit)
    return handle.last_step


def check(measured, expected, limit=1e-4):
    assert measured.keys() == expected.keys()
    for name, value in expected.items():
        assert measured[name].dtype == value.dtype
        error = truth.relative(measured[name], value.double())
        assert error < limit, f"{name}: {error:.1e}"


@pytest.fixture
def service(client, needs):
    needs("attention_states")
    return client


@pytest.fixture
def asked(contract):
    """asked(): bodies of the gradients that were asked for."""
    return lambda: [body for body in contract.bodies if "grad_output" in body]


def test_gradients_are_those_of_autograd(service):
    step = compare(make_model(), service)
    assert list(step.layers) == [
        f"base_model.model.model.layers.{layer}.self_attn" for layer in (1, 0)
    ]
    assert sum(step.methods.values()) == 2
    assert step.error_bound < 1e-3
    assert step.bytes_sent > 0
    assert set(step.layers.popitem()[1].error) == {"query", "key", "value"}


def test_the_gradients_of_attention_are_the_service_s(contract, monkeypatch):
    """A service that answers zeros: adapters of q, k and v get zeros, those of o_proj what is theirs."""
    answer = contract.post

    def zeros(path, body):
        result = answer(path, body)
        for tensor in result.get("gradients", {}).values():
            tensor["data"] = bytes(len(tensor["data"]))
        return result

    monkeypatch.setattr(contract, "post", zeros)
    model = make_model([*ATTENTION, "o_proj"], config={"num_hidden_layers": 1})
    _, expected = train_once(model, make_batch())
    with attach(model, contract.url, minimum_length=0):
        _, measured = train_once(model, make_batch())
    for name, value in measured.items():
        if "o_proj" in name:
            assert truth.relative(value, expected[name].double()) < 1e-4
        else:
            assert not value.any() and expected[name].any()


@pytest.mark.parametrize("dtype, limit", [(torch.bfloat16, 4e-2), (torch.float16, 1e-2)], ids=str)
def test_half_precision(service, dtype, limit):
    """As far as two ways of rounding agree: PyTorch's own layer rounds after every operation."""
    compare(make_model(dtype=dtype), service, limit=limit)


BATCHES = {
    "right padding": make_batch((16, 9, 1)),
    "left padding": make_batch((16, 9, 1), left=True),
    "an item of padding alone": make_batch((16, 0)),
    "packing": packed_batch(7, 1, 8),
}


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("batch", BATCHES)
def test_masks(service, batch, window, implementation):
    config = {"attn_implementation": implementation, "sliding_window": window}
    compare(make_model(family="Mistral", config=config), service, BATCHES[batch])


def test_rows_without_keys_that_the_loss_looks_at(service):
    """Eager attention has means there and not zeros, with gradients of their own."""
    batch = make_batch((16, 9), left=True)
    batch["labels"] = batch["input_ids"]
    for implementation in ("eager", "sdpa"):
        model = make_model(config={"attn_implementation": implementation})
        compare(model, service, batch)


def test_a_mask_of_one_s_own(service):
    """4D and of bool: read like any other, refused when no request can say it."""
    model = make_model()
    seen = truth.visible(2, 16, 16, is_causal=True, window=[5, 0])[:, None]
    compare(model, service, {**make_batch(), "attention_mask": seen})
    seen[0, 0, 9, 5] = ~seen[0, 0, 9, 5]
    for mask in (seen, torch.where(seen, 0.0, -1e30)):
        with (
            attach(model, service, minimum_length=0),
            pytest.raises(UnsupportedError, match=r"layers\.0\.self_attn: .* mask"),
        ):
            model(**{**make_batch(), "attention_mask": mask})


def test_a_mask_rewritten_before_the_backward_pass(service):
    """What the forward pass saw counts."""
    model = make_model()

    def train(model, batch):
        model.zero_grad()
        batch = {name: value.clone() for name, value in batch.items()}
        loss = model(**batch).loss
        batch["attention_mask"].zero_()
        loss.backward()
        return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    compare(model, service, make_batch((16, 9)), train=train)


def test_a_state_changed_before_the_backward_pass_is_an_error(contract):
    model, seen = make_model(), []
    projection = model.base_model.model.model.layers[0].self_attn.v_proj
    projection.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with attach(model, contract.url, minimum_length=0):
        # A cache would hold a copy.
        loss = model(**make_batch(), use_cache=False).loss
        with torch.no_grad():
            seen[0].mul_(2)
        with pytest.raises(RuntimeError, match="inplace"):
            loss.backward()


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_is_causal_of_one_call(service, implementation, is_causal):
    """A keyword that sdpa obeys and eager attention does not know."""
    model = make_model(config={"attn_implementation": implementation})
    compare(model, service, {**make_batch(), "is_causal": is_causal})


@pytest.mark.parametrize("gradient_into_prefix", [False, True])
@pytest.mark.parametrize("tokens", [1, 6])
def test_a_filled_cache(service, tokens, gradient_into_prefix):
    batch = make_batch()["input_ids"]

    def train(model, _):
        model.zero_grad()
        with torch.set_grad_enabled(gradient_into_prefix):
            prefix = model(input_ids=batch[:, :8], use_cache=True)
        suffix = batch[:, 8 : 8 + tokens]
        logits = model(input_ids=suffix, cache=prefix.cache).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), suffix.flatten())
        loss.backward()
        return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    compare(make_model(), service, train=train)


def test_losses_on_more_than_the_output(service):
    """The cache that is returned, and what a hook sees."""
    model, seen = make_model(), {}
    model.base_model.model.model.layers[0].self_attn.q_proj.register_forward_hook(
        lambda module, inputs, output: seen.update(query=output)
    )

    def train(model, batch):
        model.zero_grad()
        output = model(**batch, use_cache=True)
        loss = output.loss + seen["query"].square().mean()
        loss = loss + sum(
            layer.keys.square().mean() + layer.values.square().mean()
            for layer in output.cache.layers
        )
        loss.backward()
        return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    compare(model, service, train=train)


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"use_rslora": True, "targets": [*ATTENTION, "o_proj", "up_proj"]},
        {"bias": "all", "config": {"attention_bias": True}},
        {"family": "Qwen3", "config": {"head_dim": 8}},
        {"family": "Phi3", "targets": ["qkv_proj"], "config": {"pad_token_id": 0}},
        {"family": "Gemma2", "config": {"sliding_window": 8, "head_dim": 8}},
    ],
    ids=str,
)
def test_adapters_and_models_of_all_kinds(service, options):
    compare(make_model(**options), service)


def test_dropout_of_adapters(service):
    model = make_model(lora_dropout=0.3)

    def train(model, batch):
        torch.manual_seed(5)
        return train_once(model, batch)

    compare(model, service, train=train)


def test_adapters_by_item(service):
    model = make_model()
    model.add_adapter(
        "other", peft.LoraConfig(r=2, target_modules=ATTENTION, init_lora_weights=False)
    )
    model.set_adapter("default")
    model.eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    compare(model, service, {**make_batch(), "adapter_names": ["other", "__base__"]})


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("minimum_length", [0, 1000])
def test_gradient_checkpointing(service, reentrant, minimum_length):
    model = make_model()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    _, expected = train_once(model, make_batch())
    reports = []
    with attach(model, service, minimum_length=minimum_length, on_report=reports.append):
        _, measured = train_once(model, make_batch())
    check(measured, expected)
    assert len(reports) == 2


def test_gradients_accumulate_and_a_step_is_one_backward_pass(service):
    model, batch = make_model(), make_batch()
    for _ in range(2):
        model(**batch).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    reports = []
    with attach(model, service, minimum_length=0, on_report=reports.append) as handle:
        for _ in range(2):
            model(**batch).loss.backward()
        assert len(handle.last_step.layers) == 2
    assert len(reports) == 4
    check({name: p.grad for name, p in model.named_parameters() if p.requires_grad}, expected)


def test_autocast(service):
    model = make_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compare(model, service, limit=6e-2)


def test_compiled(service):
    """The attention breaks the graph; what is between is compiled."""
    model = make_model(config={"num_hidden_layers": 1})
    _, expected = train_once(model, make_batch())
    with attach(model, service, minimum_length=0) as handle:
        compiled = torch.compile(model, backend="aot_eager")
        _, measured = train_once(compiled, make_batch())
    check({n.removeprefix("_orig_mod."): g for n, g in measured.items()}, expected)
    assert sum(handle.last_step.methods.values()) == 1


def test_short_layers_stay_here_and_say_so(contract, asked):
    model = make_model()
    _, expected = train_once(model, make_batch())
    with attach(model, contract.url, minimum_length=17) as handle:
        _, measured = train_once(model, make_batch())
    for name, value in expected.items():
        assert torch.equal(measured[name], value)
    assert handle.last_step.methods == {"local": 2}
    for report in handle.last_step.layers.values():
        assert "16 tokens" in report.reason and "minimum_length = 17" in report.reason
    assert not asked()


def test_without_gradients_nobody_is_asked(contract, asked):
    model = make_model()
    batch = make_batch((16, 9), left=True)
    with torch.no_grad():
        expected = model(**batch).logits
    handle = attach(model, contract.url, minimum_length=0)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, expected)
    model.eval().generate(input_ids=torch.ones(1, 4, dtype=torch.long), max_new_tokens=3)
    handle.detach()
    handle.detach()
    train_once(model.train(), batch)
    assert not asked()
    assert model.config._attn_implementation == "sdpa"


def test_every_call_draws_with_its_own_seed(contract, asked):
    model = make_model()
    with attach(model, contract.url, minimum_length=0, seed=7):
        train_once(model, make_batch())
        train_once(model, make_batch())
    assert len({body["seed"] for body in asked()}) == 4


def test_bytes_at_the_socket(states_url):
    """A step sends query, key, value and upstream gradient of each layer, whatever the model weighs."""
    model, batch = make_model(), make_batch((16, 16))
    # Two layers of 4 query heads and 2 key/value heads of width 8, float32, and a sum for each row.
    states = 2 * 4 * 2 * 16 * (8 * (4 + 2 + 2 + 4) + 4)
    with CountingProxy(states_url) as proxy, attach(model, proxy.url, minimum_length=0) as handle:
        proxy.sent()
        train_once(model, batch)
        sent = proxy.sent()
        assert handle.last_step.bytes_sent <= sent <= handle.last_step.bytes_sent + 2 * 500
    assert states < sent < states + 2 * 1500


def test_overflow_is_skipped_by_loss_scaling(contract):
    model, batch = make_model(), make_batch()
    with attach(model, contract.url, minimum_length=0) as handle:
        (model(**batch).loss * torch.inf).backward()
    assert handle.last_step.methods == {"skipped": 2}
    assert handle.last_step.error_bound is None
    assert "2 skipped" in str(handle.last_step)


def test_a_gradient_too_large_for_its_dtype_is_skipped_too(service):
    """The upstream gradient is finite in float16; that of the first value is the sum of many."""
    shape = (1, 2, 16, 4)
    states = [torch.zeros(shape, dtype=torch.float16, requires_grad=True) for _ in range(3)]
    handle = register(service, minimum_length=0)
    try:
        output, _ = attention(torch.nn.Module(), *states, None)
        output.backward(torch.full_like(output, 6e4))
    finally:
        handle.detach()
    assert all(state.grad.isnan().all() for state in states)
    (report,) = handle.last_step.layers.values()
    assert report.method == "skipped" and "too large for float16" in report.reason


@pytest.mark.parametrize(
    "config, call, reason",
    [
        ({"attention_dropout": 0.1}, {}, "attention_dropout=0"),
        ({}, {"output_attentions": True}, "output_attentions"),
        ({}, {"cu_seq_lens_q": torch.tensor([0, 16])}, "cu_seq_lens_q"),
        ({}, {"of_tomorrow": 1}, "of_tomorrow"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
@pytest.mark.parametrize("minimum_length", [0, 1000])
def test_calls_that_are_refused(contract, config, call, reason, minimum_length):
    """In every step, in long layers and in short ones, with gradients or without."""
    model = make_model(config=config)
    with attach(model, contract.url, minimum_length=minimum_length):
        if not config:
            train_once(model, make_batch())
        for enabled in (True, False):
            with (
                torch.set_grad_enabled(enabled),
                pytest.raises(UnsupportedError, match=rf"layers\.0\.self_attn: .*{reason}"),
            ):
                model(**make_batch(), **call)


def test_models_that_are_refused(contract):
    with pytest.raises(UnsupportedError, match="AttentionInterface"):
        attach(torch.nn.TransformerEncoderLayer(8, 2), contract.url)
    model = make_model(config={"attn_implementation": "eager", "output_attentions": True})
    with pytest.raises(UnsupportedError, match="output_attentions"):
        attach(model, contract.url)


@pytest.mark.parametrize(
    "options, error, reason",
    [
        ({"method": "guess"}, ProblemError, "/method"),
        ({"tolerance": -1}, ProblemError, "/tolerance"),
        ({"tolerance": float("nan")}, ProblemError, "/tolerance"),
        ({"tolerence": 0.1}, UnsupportedError, "tolerence"),
        ({"method": "low_rank"}, UnsupportedError, "low_rank.*adapters"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_fail_where_they_are_given(service, options, error, reason):
    model = make_model()
    with pytest.raises(error, match=reason):
        attach(model, service, **options)
    assert model.config._attn_implementation == "sdpa"
    attach(model, service).detach()


def test_attached_twice(contract):
    model = make_model()
    with attach(model, contract.url):
        with pytest.raises(ValueError, match="already"):
            attach(model, contract.url)
        train_once(model, make_batch())
    attach(model, contract.url).detach()


def test_copies_and_pickles(contract):
    model = make_model()
    with attach(model, contract.url):
        for copier in (copy.deepcopy, pickle.dumps, lambda model: torch.save(model, io.BytesIO())):
            with pytest.raises(UnsupportedError, match="detach"):
                copier(model)
        # What a trainer saves.
        torch.save(model.state_dict(), io.BytesIO())
        copy.deepcopy(model.config)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    check(train_once(twin, make_batch())[1], train_once(model, make_batch())[1])


def test_a_config_that_an_attached_model_shares(contract, asked, caplog):
    """Another model of the same config computes what it did, by itself, and says so."""
    model = make_model()
    other = transformers.LlamaForCausalLM(model.config).train()
    _, expected = train_once(other, make_batch())
    with attach(model, contract.url, minimum_length=0):
        _, measured = train_once(other, make_batch())
    check(measured, expected)
    assert not asked() and "no service" in caplog.text


def test_an_error_in_backward_names_layer_address_and_setting(contract, monkeypatch):
    from loragrad import transport

    monkeypatch.setattr(transport.time, "sleep", lambda _: None)
    model = make_model()
    with attach(model, contract.url, minimum_length=0):
        loss = model(**make_batch()).loss
        contract.script = [(429, {})] * 9
        with pytest.raises(ProblemError) as caught:
            loss.backward()
        loss = model(**make_batch()).loss
        # The connection that is open, then nine new ones.
        contract.script = [None] * 10
        with pytest.raises(ServiceUnreachable) as unreachable:
            loss.backward()
    for text in (str(caught.value), str(unreachable.value)):
        assert "layers.1.self_attn: " in text and f"POST {contract.url}/gradient" in text
    assert "Client(retries=...)" in str(caught.value)


def test_services_that_are_older(contract):
    contract.features = ("rotary", "forward")
    with pytest.raises(UnsupportedError, match=f"{contract.url}.*older"):
        attach(make_model(), contract.url)


def test_registered_for_every_model(contract, asked):
    model = make_model()
    _, expected = train_once(model, make_batch())
    handle = register(contract.url, minimum_length=0)
    model.set_attn_implementation("loragrad")
    check(train_once(model, make_batch())[1], expected)
    assert list(handle.last_step.layers) == ["LlamaAttention.1", "LlamaAttention.0"]
    fresh = transformers.LlamaForCausalLM._from_config(
        make_model().config, attn_implementation="loragrad"
    )
    train_once(fresh, make_batch())
    assert len(asked()) == 4
    handle.detach()
    check(train_once(model, make_batch())[1], expected)
    assert len(asked()) == 4


def test_distributed_data_parallel(service, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        model = make_model()
        _, expected = train_once(model, make_batch())
        with attach(model, service, minimum_length=0):
            twin = torch.nn.parallel.DistributedDataParallel(model)
            _, measured = train_once(twin, make_batch())
        check({n.removeprefix("module."): g for n, g in measured.items()}, expected)
    finally:
        torch.distributed.destroy_process_group()


def test_backward_passes_of_several_threads_are_in_flight_together(contract):
    """Two layers that do not wait for each other: the service sees both before it answers one."""
    together = threading.Barrier(2)
    answer = contract.post

    def post(path, body):
        if "grad_output" in body:
            together.wait(30)
        return answer(path, body)

    contract.post = post
    model = make_model(config={"num_hidden_layers": 1})
    expected = train_once(model, make_batch())[1]
    with attach(model, contract.url, minimum_length=0):
        model.zero_grad()
        losses = [model(**make_batch()).loss for _ in range(2)]
        threads = [threading.Thread(target=loss.backward) for loss in losses]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    measured = {name: p.grad / 2 for name, p in model.named_parameters() if p.requires_grad}
    check(measured, expected)


def test_metrics_reach_the_log_of_a_trainer(contract, tmp_path):
    model = make_model()
    batch = {name: value[0] for name, value in make_batch().items()}
    seen = []

    class Watcher(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            seen.append(dict(logs))

    arguments = transformers.TrainingArguments(
        tmp_path, max_steps=2, logging_steps=1, report_to=[], use_cpu=True, save_strategy="no"
    )
    with attach(model, contract.url, minimum_length=0) as handle:
        trainer = transformers.Trainer(
            model, arguments, train_dataset=[batch] * 8, callbacks=[Watcher()]
        )
        handle.log_to(trainer)
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 2
    for entry in (*logged, *seen[:2]):
        assert entry["loragrad/layers_exact"] == 2
        assert entry["loragrad/error_bound"] == 3e-7


def test_sums_of_the_forward_pass_are_sent_along(contract, asked):
    """Those that the service would compute, wherever PyTorch's kernel tells them."""
    model = make_model(config={"num_hidden_layers": 1})
    with attach(model, contract.url, minimum_length=0):
        train_once(model, make_batch())
        train_once(model, make_batch((16, 9)))
    plain, padded = asked()
    assert "log_sum_exp" not in padded
    query, key = (read(plain[name]).transpose(1, 2) for name in ("query", "key"))
    logits = query @ key.repeat_interleave(2, dim=1).transpose(2, 3) * plain["scaling"]
    seen = truth.visible(2, 16, 16, is_causal=True)[:, None]
    expected = logits.masked_fill(~seen, -torch.inf).logsumexp(dim=-1)
    assert (read(plain["log_sum_exp"]) - expected).abs().max() < 1e-4


LINEAR = {"query", "key", "value"}
ROTATED = {"cos", "sin"}
FUSED = ("qkv_proj", "query_key_value", "c_attn")


def weights_of(layer, heads):
    """By state the gradient of its part of the weights, (out, in), of a layer that was trained."""
    if hasattr(layer, "q_proj"):
        return {name: getattr(layer, f"{name[0]}_proj").base_layer.weight.grad for name in LINEAR}
    [fused] = [getattr(layer, name).base_layer for name in FUSED if hasattr(layer, name)]
    gradient = fused.weight.grad if isinstance(fused, torch.nn.Linear) else fused.weight.grad.T
    states = ("query", "key", "value")
    if hasattr(layer, "query_key_value"):
        parts = gradient.unflatten(0, (heads[0], 3, -1)).unbind(1)
        return {name: part.flatten(0, 1) for name, part in zip(states, parts, strict=True)}
    width = gradient.shape[0] // (heads[0] + 2 * heads[1])
    rows = [width * heads[0], width * heads[1], width * heads[1]]
    return dict(zip(states, gradient.split(rows), strict=True))


@pytest.mark.parametrize(
    "family, config, names",
    [
        ("Llama", {}, LINEAR | ROTATED),
        ("Mistral", {"sliding_window": 4}, LINEAR | ROTATED),
        ("SmolLM3", {"no_rope_layers": [0], "pad_token_id": 0}, LINEAR),
        ("StableLm", {"num_key_value_heads": 4}, LINEAR | ROTATED),
        ("Phi3", {"pad_token_id": 0}, LINEAR | ROTATED),
        ("GPTNeoX", {"num_key_value_heads": 4}, LINEAR | ROTATED),
        ("GPT2", {"num_key_value_heads": 4, "attn_pdrop": 0.0}, LINEAR),
        ("Qwen3", {"head_dim": 8}, {"value"}),
        ("Cohere", {"pad_token_id": 0}, {"value"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_inputs_of_projections_give_the_gradients_of_their_weights(
    contract, asked, family, config, names
):
    """X^T dQ of what is sent is the gradient of the projection's weight that autograd has."""
    fused = {"Phi3": ["qkv_proj"], "GPTNeoX": ["query_key_value"], "GPT2": ["c_attn"]}
    targets = fused.get(family, ATTENTION)
    model = make_model(targets, family=family, config={"num_hidden_layers": 1, **config})
    layer = next(m for m in model.modules() if any(hasattr(m, name) for name in targets))
    for module in layer.children():
        if hasattr(module, "base_layer"):
            module.base_layer.weight.requires_grad_()
    answers = []
    answer = contract.post
    contract.post = lambda path, body: answers.append(answer(path, body)) or answers[-1]
    with attach(model, contract.url, minimum_length=0, method="sampled", tolerance=0.1):
        train_once(model, make_batch())
    body = asked()[-1]
    inputs = body["inputs"]
    # What entered all three is sent once.
    assert inputs.keys() == (names - LINEAR | {"hidden_states"} if names >= LINEAR else names)
    heads = [body[name]["shape"][2] for name in ("query", "key")]
    expected = weights_of(layer, heads)
    for name in names - ROTATED:
        gradient = read(answers[-1]["gradients"][name])
        if name != "value" and names >= ROTATED:
            cos, sin = (read(inputs[table])[:, :, None] for table in ("cos", "sin"))
            turned, rest = gradient.split(
                [cos.shape[-1], gradient.shape[-1] - cos.shape[-1]], dim=-1
            )
            first, second = (turned * sin).chunk(2, dim=-1)
            gradient = torch.cat((turned * cos - torch.cat((-second, first), dim=-1), rest), dim=-1)
        x = read(inputs.get("hidden_states") or inputs[name]).flatten(0, 1)
        found = gradient.flatten(2).flatten(0, 1).T @ x
        assert truth.relative(found, expected[name].double()) < 2e-2


def test_inputs_are_sent_where_a_method_may_use_them(contract, asked):
    model = make_model(config={"num_hidden_layers": 1})
    for options in ({}, {"method": "exact"}):
        with attach(model, contract.url, minimum_length=0, **options):
            train_once(model, make_batch())
    assert not any("inputs" in body for body in asked())
    assert not model.base_model.model.model.layers[0].self_attn.q_proj._forward_hooks


def read(fields):
    """A tensor on the wire in float64."""
    data = torch.frombuffer(bytearray(fields["data"]), dtype=getattr(torch, fields["dtype"]))
    return data.reshape(fields["shape"]).double()
