"""LoRA training of a tiny Llama, once with PyTorch alone and once with gradients from the service.

    python train_tiny_llama.py --url http://127.0.0.1:3000
    python train_tiny_llama.py --sweep       # how loose may the tolerance be?

The sweep takes low-rank wherever that reaches the tolerance, however short the text: `auto` would take
exact where that is faster, which at lengths that train within minutes is everywhere.

Prints both loss curves, the methods and the error bars of every step, and draws them to a file. Nothing
is downloaded: the model has random weights, the text lies beside this script.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from plots import CORRECTED, draw_comparison, draw_sweep
from safetensors.torch import save_file
from tiny_llama import batches, make_model
from torch import Tensor

from loragrad import Client, GradientResult, ProblemError
from loragrad.torch import Step, attach

TARGETS = {"q,v": ["q_proj", "v_proj"], "q,k,v": ["q_proj", "k_proj", "v_proj"]}
TOLERANCES = (0.01, 0.05, 0.1, 0.2)


class LowRankFirst(Client):
    """Low-rank gradients wherever they reach the tolerance, exact ones where the service refuses."""

    def gradient(self, **request: Any) -> GradientResult:
        try:
            return super().gradient(**{**request, "method": "low_rank"})
        except ProblemError as problem:
            if problem.status != 422:
                raise
            exact = {key: value for key, value in request.items() if key != "correction"}
            return super().gradient(**{**exact, "method": "exact"})


@dataclass
class Run:
    """One training: its loss at every step, and what the service reported of it."""

    label: str
    losses: list[float] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def bounds(self) -> list[float]:
        """The largest relative error bound of each step; NaN where there is none."""
        return [float("nan") if s.error_bound is None else s.error_bound for s in self.steps]

    @property
    def methods(self) -> Counter[str]:
        """How many gradients of layers each method computed."""
        return sum((step.methods for step in self.steps), start=Counter())


def train(label: str, targets: list[str], args: argparse.Namespace, **options: object) -> Run:
    """:param options: of `attach`; none at all: PyTorch alone"""
    model = make_model(targets, args.length).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=args.lr)
    run = Run(label)
    # Tiny as it is, the service is to compute it.
    handle = attach(model, minimum_length=0, **options) if options else None
    start = time.perf_counter()
    for tokens in islice(batches(args.batch, args.length), args.steps):
        loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.losses.append(loss.item())
        if handle:
            run.steps.append(handle.last_step)
    run.seconds = time.perf_counter() - start
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
            correction=args.correction,
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
    draw_comparison(runs, args.plot)


def sweep(client: Client, args: argparse.Namespace) -> None:
    targets = TARGETS["q,v"]
    low_rank = LowRankFirst(client.url)
    local = train("PyTorch", targets, args)
    print("tolerance        final loss  largest difference  largest bound  time, s  gradients")
    print(f"{local.label:15}  {local.losses[-1]:10.4f}{'':37}{local.seconds:7.1f}", flush=True)

    def measure(label: str, **options: object) -> Run:
        run = train(label, targets, args, **options)
        print(
            f"{run.label:15}  {run.losses[-1]:10.4f}  {difference(run, local):18.2e}  "
            f"{max(run.bounds):13.1e}  {run.seconds:7.1f}  {dict(run.methods)}",
            flush=True,
        )
        return run

    runs = [measure("exact", url=client, method="exact")]
    for correction in (False, True) if client.capabilities().correction else (False,):
        for tolerance in TOLERANCES:
            label = f"{tolerance:g}" + (CORRECTED if correction else "")
            options = {"tolerance": tolerance, "correction": correction}
            runs.append(measure(label, url=low_rank, **options))
    if not any(run.methods["low_rank"] for run in runs):
        print("Every gradient was exact: no tolerance made a difference, times differ by chance.")
    draw_sweep(local, runs, args.plot)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--sweep", action="store_true", help="compare tolerances")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=512, help="tokens (bytes) of an item")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--method", default="auto", choices=("auto", "exact", "low_rank"))
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--correction", action="store_true")
    parser.add_argument("--plot", type=Path, help="file to draw to")
    parser.add_argument("--save", type=Path, help="folder for what plan_adapter.py takes")
    args = parser.parse_args()
    args.plot = args.plot or Path("sweep.png" if args.sweep else "loss.png")
    with Client(args.url) as client:
        (sweep if args.sweep else compare)(client, args)
    print(f"drawn: {args.plot}")


if __name__ == "__main__":
    main()
