"""Which layers of a trained adapter lie below the efficiency threshold?

    python plan_adapter.py ADAPTER BASE HIDDEN_STATES [--url http://127.0.0.1:3000]

ADAPTER is a folder that PEFT saved (adapter_config.json, adapter_model.safetensors), BASE the folder of
its base model (config.json, *.safetensors), HIDDEN_STATES a safetensors file with what enters each
attention layer, (L, d_in) or (B, L, d_in), under the name of the layer ("model.layers.0.self_attn").
`train_tiny_llama.py --save FOLDER` writes all three. Nothing is computed but the plan.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from loragrad import Client

PROJECTIONS = ("q_proj", "k_proj", "v_proj")
PEFT_PREFIX = "base_model.model."


class Tensors:
    """The tensors of one or several safetensors files, read when they are asked for."""

    def __init__(self, stack: ExitStack, files: list[Path]):
        self._file_of: dict[str, Any] = {}
        for path in files:
            file = stack.enter_context(safe_open(path, framework="pt"))
            self._file_of |= dict.fromkeys(file.keys(), file)

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def __getitem__(self, name: str) -> Tensor:
        return self._file_of[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)


def projection(name: str, base: Tensors, adapter: Tensors, lora: dict[str, Any]) -> dict[str, Any]:
    """A `loragrad.Projection`; `name` as in "model.layers.0.self_attn.q_proj"."""
    fields: dict[str, Any] = {"weight": base[f"{name}.weight"]}
    if f"{name}.bias" in base:
        fields["bias"] = base[f"{name}.bias"]
    key = f"{PEFT_PREFIX}{name}.lora_A.weight"
    if key in adapter:
        fields["lora_A"] = adapter[key]
        fields["lora_B"] = adapter[key.replace("lora_A", "lora_B")]
        fields["lora_alpha"] = lora["lora_alpha"]
        fields["use_rslora"] = bool(lora.get("use_rslora"))
    return fields


def rotary(config: PretrainedConfig, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin (L, d) at positions 0, 1, ..."""
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(length)[None])
    return cos[0], sin[0]


def refuse_patterns(lora: dict[str, Any]) -> None:
    for key in ("alpha_pattern", "rank_pattern"):
        if lora.get(key):
            raise SystemExit(f"The adapter has a {key}: its scaling differs from layer to layer")
    if lora.get("use_dora"):
        raise SystemExit("The adapter is DoRA, not plain LoRA")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("hidden_states", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--tolerance", type=float, default=0.01)
    args = parser.parse_args()
    lora = json.loads((args.adapter / "adapter_config.json").read_text())
    refuse_patterns(lora)
    config = AutoConfig.from_pretrained(args.base)
    with ExitStack() as stack:
        client = stack.enter_context(Client(args.url))
        base = Tensors(stack, sorted(args.base.glob("*.safetensors")))
        adapter = Tensors(stack, [args.adapter / "adapter_model.safetensors"])
        hidden_states = Tensors(stack, [args.hidden_states])
        rotates = client.capabilities().rotary
        if not rotates:
            print(
                "This service does not know rotary positions: the plan is that of a model without."
            )
        print(f"{'layer':28} {'below':5} {'ratio':>6} {'query':>6} {'key':>6}  method")
        for layer in hidden_states:
            x = hidden_states[layer]
            positions = dict(zip(("cos", "sin"), rotary(config, x.shape[-2]), strict=True))
            plan = client.plan(
                hidden_states=x,
                **{
                    name: projection(f"{layer}.{name}", base, adapter, lora) for name in PROJECTIONS
                },
                **(positions if rotates else {}),
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=config.num_key_value_heads,
                is_causal=True,
                tolerance=args.tolerance,
            )
            threshold = plan.threshold
            below = "yes" if threshold.below_threshold else "no"
            query, key = threshold.norms["query"], threshold.norms["key"]
            ratio = float("nan") if threshold.ratio is None else threshold.ratio
            print(
                f"{layer:28} {below:5} {ratio:6.2f} {query:6.2f} {key:6.2f}  {plan.method}: {plan.reason}"
            )
    print(
        "below: the largest entry of scaled queries and keys (norms) is under sqrt(ln L), at ratio 1."
    )


if __name__ == "__main__":
    main()
