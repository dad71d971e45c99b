"""Which models train rightly through the service: the table of the README.

    python architectures.py --url http://127.0.0.1:3000 --write

Every parameter's gradient of a tiny model with random weights, by PyTorch alone and attached, both
against the same model in float64. Right: the error (Frobenius, all parameters together) is at most LIMIT
times that of PyTorch alone in the same dtype. The whole model is trained, so that nothing hides.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.masking_utils import eager_mask

from loragrad import Client, LoragradError
from loragrad.torch import attach

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- architectures -->\n", "<!-- /architectures -->"
LIMIT = 3
LENGTH = 24
WINDOW = {"sliding_window": 8}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}

#: Class of the model, its config beside SIZES.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaForCausalLM", {}),
    "Mistral (window)": ("MistralForCausalLM", WINDOW),
    "Mixtral": ("MixtralForCausalLM", EXPERTS),
    "Qwen2": ("Qwen2ForCausalLM", {}),
    "Qwen3": ("Qwen3ForCausalLM", {}),
    "Gemma": ("GemmaForCausalLM", {}),
    "Gemma2 (window, soft cap)": ("Gemma2ForCausalLM", {**WINDOW, "query_pre_attn_scalar": 8}),
    "Gemma3 (window)": ("Gemma3ForCausalLM", {**WINDOW, "query_pre_attn_scalar": 8}),
    "Phi3 (fused projections)": ("Phi3ForCausalLM", {}),
    "GPT-NeoX": ("GPTNeoXForCausalLM", {}),
    "GPT-2": ("GPT2LMHeadModel", {"n_positions": 64}),
    "Bert": ("BertForMaskedLM", {}),
    "Roberta": ("RobertaForMaskedLM", {}),
    "OPT": ("OPTForCausalLM", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "Whisper": ("WhisperForConditionalGeneration", {"num_mel_bins": 8, "max_source_positions": 12}),
    "Bart": ("BartForConditionalGeneration", {}),
    # Its encoder has an attention of its own, which adds the mask.
    "BigBird-Pegasus": ("BigBirdPegasusForConditionalGeneration", {}),
    "StableLM (partial rotary)": ("StableLmForCausalLM", {}),
    "OLMo2": ("Olmo2ForCausalLM", {}),
    "Cohere2 (window)": ("Cohere2ForCausalLM", WINDOW),
    "SmolLM3 (NoPE)": ("SmolLM3ForCausalLM", {"num_hidden_layers": 4}),
    "Granite": ("GraniteForCausalLM", {}),
    "GPT-OSS (sinks, window)": ("GptOssForCausalLM", {**EXPERTS, **WINDOW}),
    "DeepSeek-V3 (dv != d)": (
        "DeepseekV3ForCausalLM",
        {
            **{
                "q_lora_rank": None,
                "kv_lora_rank": 8,
                "qk_nope_head_dim": 8,
                "qk_rope_head_dim": 4,
            },
            **{"v_head_dim": 6, "num_key_value_heads": 4, "first_k_dense_replace": 2},
            **{"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16},
            **{"head_dim": 4, "num_experts_per_tok": 1},
        },
    ),
    "Llama4 (chunks)": (
        "Llama4ForCausalLM",
        {**EXPERTS, "attention_chunk_size": 8, "intermediate_size_mlp": 48},
    ),
    "T5 (position bias)": ("T5ForConditionalGeneration", {"d_model": 32, "d_kv": 8, "d_ff": 48}),
    "Mamba (no attention)": ("MambaForCausalLM", {"state_size": 4}),
}
SIZES = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
    **{"max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    # Of encoders and decoders.
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "decoder_start_token_id": 1},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_target_positions": 64},
    **{"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_layers": 2, "num_heads": 4},
    # What is random in training, and dropout of attention weights, which is refused.
    **{"attention_dropout": 0.0, "dropout": 0.0, "activation_dropout": 0.0, "dropout_rate": 0.0},
    **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attn_pdrop": 0.0},
    **{"embd_pdrop": 0.0, "resid_pdrop": 0.0, "hidden_dropout": 0.0},
    # The others know no float64.
    "experts_implementation": "eager",
}


def make_model(name: str) -> nn.Module:
    kind, config = MODELS[name]
    model_class = getattr(transformers, kind)
    torch.manual_seed(0)
    sizes = {**SIZES, **config}
    model: nn.Module = model_class(model_class.config_class(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than new models have them: logits that matter.
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model.train()


def make_batch(model: nn.Module, dtype: torch.dtype) -> dict[str, Any]:
    random = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 64, (2, LENGTH), generator=random)
    if model.main_input_name == "input_features":
        features = torch.randn(2, 8, LENGTH, generator=random).to(dtype)
        return {"input_features": features, "labels": tokens[:, : LENGTH // 2]}
    return {"input_ids": tokens, "labels": tokens}


def pad(batch: dict[str, Any], left: bool) -> dict[str, Any] | None:
    """Five tokens of one item are padding, at the end or on the left."""
    if "input_ids" not in batch:
        return None
    mask = torch.ones_like(batch["input_ids"])
    mask[0, :5] = 0
    mask = mask if left else mask.flip(1)
    return {**batch, "attention_mask": mask, "labels": batch["labels"].masked_fill(mask == 0, -100)}


def pack(batch: dict[str, Any], model: nn.Module) -> dict[str, Any] | None:
    """Two sequences in one item, told apart by their positions: causal models without a cache."""
    if "input_ids" not in batch or not model.can_generate() or model.config.is_encoder_decoder:
        return None
    positions = torch.cat((torch.arange(10), torch.arange(LENGTH - 10)))
    return {**batch, "position_ids": positions.expand(2, -1), "use_cache": False}


def gradients(model: nn.Module, batch: dict[str, Any], passes: int = 1) -> torch.Tensor:
    """Of all parameters, one after another, in float64."""
    model.zero_grad()
    for _ in range(passes):
        model(**batch).loss.backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.cat([grad.double().flatten() for grad in found])


def checkpointed(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        return gradients(model, batch)
    finally:
        model.gradient_checkpointing_disable()


def accumulated(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    return gradients(model, batch, passes=2)


Run = Callable[[nn.Module, dict[str, Any]], torch.Tensor]
#: What a column of the table does: (dtype, batch of a batch and the model, run).
COLUMNS: dict[str, tuple[torch.dtype, Callable[..., dict[str, Any] | None], Run]] = {
    "plain": (torch.float32, lambda batch, _: batch, gradients),
    "left padding": (torch.float32, lambda batch, _: pad(batch, left=True), gradients),
    "right padding": (torch.float32, lambda batch, _: pad(batch, left=False), gradients),
    "packing": (torch.float32, pack, gradients),
    "checkpointing": (torch.float32, lambda batch, _: batch, checkpointed),
    "accumulation": (torch.float32, lambda batch, _: batch, accumulated),
    "bfloat16": (torch.bfloat16, lambda batch, _: batch, gradients),
    "bfloat16, left padding": (torch.bfloat16, lambda batch, _: pad(batch, left=True), gradients),
}


def verdict(name: str, column: str, client: Client) -> str:
    """ "right", "-" where the model has no such thing, "refused: why", or "wrong: how much"."""
    dtype, prepare, run = COLUMNS[column]
    model = make_model(name).to(dtype)
    batch = prepare(make_batch(model, dtype), model)
    if batch is None:
        return "-"
    precise = copy.deepcopy(model).double()
    doubled = {
        key: value.double() if torch.is_floating_point(value) else value
        for key, value in batch.items()
        if isinstance(value, torch.Tensor)
    }
    expected = run(precise, {**batch, **doubled})
    local = float((run(model, batch) - expected).norm() / expected.norm())
    try:
        with attach(model, client, method="exact", minimum_length=0) as handle:
            measured = run(model, batch)
        served = float((measured - expected).norm() / expected.norm())
    except LoragradError as error:
        return f"refused: {error.args[0].partition('. ')[0]}"
    if (
        handle.last_step.methods["exact"] != len(handle.last_step.layers)
        or not handle.last_step.layers
    ):
        return f"wrong: the service was asked for {dict(handle.last_step.methods)}"
    if not served <= LIMIT * local:
        return f"wrong: {served:.1e}, PyTorch alone {local:.1e}"
    return "right"


def table(client: Client) -> tuple[str, dict[tuple[str, str], str]]:
    """The table in Markdown, refusals in a column of their own, and every verdict."""
    verdicts = {
        (name, column): verdict(name, column, client) for name in MODELS for column in COLUMNS
    }
    lines = [f"| | {' | '.join(COLUMNS)} | |", "| --- " * (len(COLUMNS) + 2) + "|"]
    for name in MODELS:
        row = [verdicts[name, column] for column in COLUMNS]
        reasons = dict.fromkeys(cell.removeprefix("refused: ") for cell in row if ": " in cell)
        cells = [cell.partition(":")[0] for cell in row]
        lines.append(f"| {name} | {' | '.join(cells)} | {'; '.join(reasons)} |")
    return "\n".join(lines) + "\n", verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--write", action="store_true", help="into the README")
    args = parser.parse_args()
    with Client(args.url) as client:
        text, _ = table(client)
    print(text)
    if args.write:
        before, _, rest = README.read_text().partition(START)
        README.write_text(before + START + text + END + rest.partition(END)[2])


def eager_mask_for_float64(**keywords: Any) -> torch.Tensor | None:
    """Eager attention takes its softmax in float32, where the smallest float64 would be -inf, and rows
    of it NaN."""
    if keywords["dtype"] == torch.float64:
        keywords["dtype"] = torch.float32
    return eager_mask(**keywords)


transformers.AttentionMaskInterface.register("eager", eager_mask_for_float64)
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
transformers.logging.set_verbosity_error()

if __name__ == "__main__":
    main()
