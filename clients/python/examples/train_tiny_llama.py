"""LoRA training of a tiny Llama, once with PyTorch alone and once with gradients from the service.

    python train_tiny_llama.py --url http://127.0.0.1:3000

Prints both loss curves, the methods and the error bars of every step, and draws them to a file. Nothing
is downloaded: the model has random weights, the text lies beside this script.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import matplotlib
import torch
from peft import PeftModel
from safetensors.torch import save_file
from tiny_llama import batches, make_model
from torch import Tensor

from loragrad import Client
from loragrad.torch import Step, attach

matplotlib.use("Agg")  # Draws to files; needs no display.
import matplotlib.pyplot as plt

TARGETS = {"q,v": ["q_proj", "v_proj"], "q,k,v": ["q_proj", "k_proj", "v_proj"]}


@dataclass
class Run:
    """One training: its loss at every step, and what the service reported of it."""

    label: str
    losses: list[float] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @property
    def bounds(self) -> list[float]:
        """The largest relative error bound of each step; NaN where there is none."""
        return [float("nan") if s.error_bound is None else s.error_bound for s in self.steps]


def train(label: str, targets: list[str], args: argparse.Namespace, **options: object) -> Run:
    """:param options: of `attach`; none at all: PyTorch alone"""
    model = make_model(targets, args.length).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=args.lr)
    run = Run(label)
    # Tiny as it is, the service is to compute it.
    handle = attach(model, minimum_length=0, **options) if options else None
    for tokens in islice(batches(args.batch, args.length), args.steps):
        loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.losses.append(loss.item())
        if handle:
            run.steps.append(handle.last_step)
    if handle:
        handle.detach()
        if args.save:
            save(model, tokens, args.save / "-".join(targets))
    return run


def difference(run: Run, reference: Run) -> float:
    """The largest relative difference of two loss curves at any step."""
    pairs = zip(run.losses, reference.losses, strict=True)
    return max(abs(ours / theirs - 1) for ours, theirs in pairs)


def save(model: PeftModel, tokens: Tensor, folder: Path) -> None:
    """The adapter, the base model, and what enters each attention layer, for plan_adapter.py."""
    hidden_states: dict[str, Tensor] = {}
    for name, module in model.base_model.model.named_modules():
        if name.endswith("self_attn"):

            def record(
                _: object, args: object, inputs: dict[str, Tensor], name: str = name
            ) -> None:
                hidden_states[name] = inputs["hidden_states"].contiguous()

            module.register_forward_pre_hook(record, with_kwargs=True)
    with torch.no_grad():
        model(input_ids=tokens)
    model.save_pretrained(folder / "adapter")
    save_file(hidden_states, folder / "hidden_states.safetensors")
    model.unload().save_pretrained(folder / "base")


def compare(client: Client, args: argparse.Namespace) -> None:
    runs = []
    for name, targets in TARGETS.items():
        local = train(f"{name}: PyTorch", targets, args)
        service = train(
            f"{name}: loragrad",
            targets,
            args,
            url=client,
            method=args.method,
            tolerance=args.tolerance,
        )
        print(f"\nLoRA on {name}\nstep   PyTorch  loragrad  methods; error bound; time; traffic")
        for step, (ours, theirs, report) in enumerate(
            zip(local.losses, service.losses, service.steps, strict=True)
        ):
            print(f"{step:4}  {ours:8.4f}  {theirs:8.4f}  {report}")
        print(f"The curves differ by at most {difference(service, local):.2e}, relative.")
        first, *others = (report.bytes_sent for report in service.steps)
        print(f"Sent: {first} bytes in the first step, {max(others, default=0)} in the others.")
        runs.append((local, service))
    draw(runs, args.plot)


def draw(pairs: list[tuple[Run, Run]], path: Path) -> None:
    """Loss curves of both ways above, error bounds of the service below; one column a pair."""
    figure, axes = plt.subplots(
        2, len(pairs), figsize=(5 * len(pairs), 6), sharex=True, squeeze=False, height_ratios=(2, 1)
    )
    for (local, service), (curves, bounds) in zip(pairs, axes.T, strict=True):
        curves.plot(local.losses, label=local.label, linewidth=3, alpha=0.4)
        curves.plot(service.losses, label=service.label, linestyle="--")
        curves.set_ylabel("loss")
        curves.legend()
        bounds.plot(service.bounds, marker=".", color="tab:red")
        bounds.set_yscale("log")
        bounds.set_ylabel("relative error bound (99 %)")
        bounds.set_xlabel("step")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=512, help="tokens (bytes) of an item")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--method", default="auto", choices=("auto", "exact", "sampled"))
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--plot", type=Path, default=Path("loss.png"), help="file to draw to")
    parser.add_argument("--save", type=Path, help="folder for what plan_adapter.py takes")
    args = parser.parse_args()
    with Client(args.url) as client:
        compare(client, args)
    print(f"drawn: {args.plot}")


if __name__ == "__main__":
    main()
