"""Tiny Transformers models with random weights, and batches for them."""

import peft
import torch
import transformers

ATTENTION = ["q_proj", "k_proj", "v_proj"]


def make_model(targets=ATTENTION, dtype=torch.float32, config=None, family="Llama", **lora):
    """A PEFT model whose adapters are not zero."""
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
    base = transformers.AutoModelForCausalLM.from_config(configuration).to(dtype)
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, **lora)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model.train()


def make_batch(lengths=(16, 16), left=False):
    """Tokens with padding at the end, or on the left, and no loss there."""
    torch.manual_seed(1)
    tokens = torch.randint(1, 64, (len(lengths), max(lengths)))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    if left:
        mask = mask.flip(1)
    labels = tokens.masked_fill(mask == 0, -100)
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def packed_batch(*sequences):
    """One item of several sequences, told apart by their positions alone."""
    batch = make_batch([sum(sequences)])
    positions = torch.cat([torch.arange(length) for length in sequences])[None]
    # With a cache, which is the default, Transformers does not look for packing.
    return {
        "input_ids": batch["input_ids"],
        "labels": batch["labels"],
        "position_ids": positions,
        "use_cache": False,
    }


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
