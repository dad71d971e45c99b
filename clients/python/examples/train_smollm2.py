"""LoRA training of a real small model: loss curves by PyTorch alone and through the service.

    python train_smollm2.py --url http://127.0.0.1:3000 --folder curves --seeds 0 1 2
    python train_smollm2.py --folder curves --ways

SmolLM2-135M (see smollm2.py) with LoRA on q and v of its last layers, AdamW, one passage a step, of which
the last quarter is predicted and the rest is a prompt. A seed draws the adapters; the passages and their
order are the same for all curves, so that curves can be compared step by step. Each curve is a file in
the folder, so that they can be trained one at a time. At the end all in the folder are drawn
(curves.png), with a table of how far they lie from each other.

At a tolerance the sampled method is asked for, however short the passages: `auto` takes exact where
that is faster, which at lengths that train within minutes is everywhere.
"""

from __future__ import annotations

import copy
import json
from argparse import ArgumentParser, Namespace
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import torch
from smollm2 import adapt, cut, load, passages
from torch import Tensor
from transformers import PreTrainedModel

from loragrad import Client, GradientResult, ProblemError
from loragrad.torch import attach

matplotlib.use("Agg")  # Draws to files; needs no display.
import matplotlib.pyplot as plt

WAYS: dict[str, dict[str, Any] | None] = {
    "PyTorch": None,
    "exact": {"method": "exact"},
    "0.1": {"method": "sampled", "tolerance": 0.1},
    "0.2": {"method": "sampled", "tolerance": 0.2},
}
#: By way and seed: losses, methods and error bounds of each step.
Curves = dict[tuple[str, int], dict[str, list[Any]]]
#: Steps over which losses are averaged in the table and smoothed in the picture.
WINDOW = 20


class ExactWhereMissed(Client):
    """Exact gradients where the method that was asked for misses the tolerance, as with `auto`."""

    def gradient(self, **request: Any) -> GradientResult:
        try:
            return super().gradient(**request)
        except ProblemError as problem:
            if problem.kind != "tolerance-missed":
                raise
            return super().gradient(**{**request, "method": "exact"})


def train(
    way: str, seed: int, base: PreTrainedModel, states: Tensor, tokens: Tensor, args: Namespace
) -> None:
    """Writes the curve as it grows: losses, methods by layer, the error bound of each step.

    :param base: what is left of the model, copied here; states (N, L, d_in) enter it for tokens (N, L).
    """
    model = adapt(copy.deepcopy(base), seed)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=args.lr)
    options = WAYS[way]
    handle = None
    if options:
        handle = attach(model, ExactWhereMissed(args.url), minimum_length=0, seed=seed, **options)
    curve: dict[str, list[Any]] = {"losses": [], "methods": [], "bounds": []}
    predicted = args.length // 4
    for step in range(args.steps):
        item = step % len(tokens)
        inputs, labels = states[item : item + 1], tokens[item : item + 1, -predicted:]
        loss = model(inputs_embeds=inputs, labels=labels, logits_to_keep=predicted).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve["losses"].append(loss.item())
        if handle:
            curve["methods"].append(handle.last_step.methods)
            curve["bounds"].append(handle.last_step.error_bound)
        (args.folder / f"{way}-{seed}.json").write_text(json.dumps(curve))
        print(f"{way} {seed} {step} {loss.item():.6f} {handle and handle.last_step}", flush=True)


def read(folder: Path) -> Curves:
    """All curves of the folder, in the order of WAYS, cut to as many steps as all of them have."""
    curves = {}
    for way in WAYS:
        for file in sorted(folder.glob(f"{way}-*.json")):
            curves[way, int(file.stem.rpartition("-")[2])] = json.loads(file.read_text())
    steps = min(len(curve["losses"]) for curve in curves.values())
    return {
        name: {key: values[:steps] for key, values in curve.items()}
        for name, curve in curves.items()
    }


def distance(a: list[float], b: list[float]) -> tuple[float, float]:
    """Of two curves: largest and root mean square difference, relative to b."""
    differences = torch.tensor(a) / torch.tensor(b) - 1
    return float(differences.abs().max()), float(differences.square().mean().sqrt())


def table(curves: Curves) -> None:
    reference = curves["PyTorch", 0]["losses"]
    print("| curve | seed | last loss | largest difference | rms difference | bound | gradients |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for (way, seed), curve in curves.items():
        losses = curve["losses"]
        largest, rms = distance(losses, reference)
        known = [bound for bound in curve["bounds"] if bound is not None]
        bound = f"{max(known):.1e}" if known else ""
        total = sum((Counter(step) for step in curve["methods"]), Counter())
        methods = ", ".join(f"{number} {name}" for name, number in total.items())
        last = sum(losses[-WINDOW:]) / WINDOW
        print(f"| {way} | {seed} | {last:.4f} | {largest:.1e} | {rms:.1e} | {bound} | {methods} |")
    exact = [curve["losses"] for (way, _), curve in curves.items() if way == "PyTorch"]
    if len(exact) > 1:
        pairs = [distance(a, b) for a, b in combinations(exact, 2)]
        largest, rms = (max(column) for column in zip(*pairs, strict=True))
        print(f"Seeds of PyTorch alone differ by up to {largest:.1e}, rms up to {rms:.1e}.")
        low, high = torch.tensor(exact).aminmax(dim=0)
        for way in ("0.1", "0.2"):
            if (way, 0) in curves:
                losses = torch.tensor(curves[way, 0]["losses"])
                inside = ((losses >= low) & (losses <= high)).float().mean()
                print(
                    f"{way}: within the range of these seeds at {100 * inside:.0f} % of the steps"
                )


def draw(curves: Curves, path: Path) -> None:
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 7), sharex=True)
    reference = curves["PyTorch", 0]["losses"]
    for (way, seed), curve in curves.items():
        losses, label = torch.tensor(curve["losses"]), f"{way}, seed {seed}"
        smooth = losses.unfold(0, WINDOW, 1).mean(dim=1)
        wide = (way, seed) == ("PyTorch", 0)
        steps = range(WINDOW - 1, len(losses))
        width = 4 if wide else 1.5
        (line,) = above.plot(steps, smooth, label=label, linewidth=width, alpha=0.7)
        if not wide:
            difference = (losses / torch.tensor(reference) - 1).abs()
            below.plot(difference, color=line.get_color(), alpha=0.7)
    title = f"SmolLM2-135M, LoRA on q and v, mean of {WINDOW} steps"
    above.set(ylabel="loss", title=title)
    above.legend()
    below.set(ylabel="difference from PyTorch, seed 0", xlabel="step", yscale="log")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--folder", type=Path, default=Path("curves"))
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--passages", type=int, default=10)
    parser.add_argument("--length", type=int, default=512, help="tokens of a passage")
    parser.add_argument("--layers", type=int, default=30, help="that are trained, the last ones")
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.ways:
        tokens, base = passages(args.passages, args.length), load()
        states = cut(base, args.layers, tokens)
    for way in args.ways:
        for seed in args.seeds:
            train(way, seed, base, states, tokens, args)
    curves = read(args.folder)
    if ("PyTorch", 0) in curves:
        table(curves)
        draw(curves, args.folder / "curves.png")


if __name__ == "__main__":
    main()
