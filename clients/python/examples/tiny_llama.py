"""A small Llama-type model with random weights, its LoRA adapters, and text that ships with it."""

from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

TEXT = Path(__file__).with_name("text.txt")


def make_model(targets: list[str], max_length: int, rank: int = 8) -> PeftModel:
    """The same weights at every call. Bytes are its vocabulary."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_length,
        # Larger than is usual: a random model whose weights are never trained must be able to say
        # something with what its adapters learn.
        initializer_range=0.1,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            # Small logits, deviation 0.3, from which the adapters set out: there low-rank is possible.
            layer.self_attn.q_proj.weight.mul_(0.5)
            layer.self_attn.k_proj.weight.mul_(0.5)
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    return get_peft_model(model, lora)


def batches(batch: int, length: int) -> Iterator[Tensor]:
    """(batch, length) bytes of the text, from random places, the same at every call."""
    data = torch.frombuffer(bytearray(TEXT.read_bytes()), dtype=torch.uint8).long()
    random = torch.Generator().manual_seed(0)
    while True:
        starts = torch.randint(len(data) - length, (batch,), generator=random)
        yield torch.stack([data[start : start + length] for start in starts])
