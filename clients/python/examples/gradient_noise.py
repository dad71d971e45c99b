"""How exact a gradient need be: the minibatch's own noise beside the error of an approximate method.

    python gradient_noise.py

SmolLM2-135M (see smollm2.py) with fresh LoRA on q and v of every layer, gradients of single passages by
PyTorch alone. Their spread around the mean is the noise v of a batch; an independent unbiased error of
relative size e multiplies the variance of a training step by 1 + e^2 (1 + v^2) / v^2.
"""

from __future__ import annotations

import argparse
from math import sqrt

import torch
from smollm2 import adapt, load, passages
from torch import Tensor

ERRORS = (0.05, 0.1, 0.2)


def gradient(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    model.zero_grad()
    model(input_ids=tokens[None], labels=tokens[None]).loss.backward()
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.requires_grad])


def noise(gradients: Tensor) -> float:
    """v of one passage, from gradients (N, parameters): deviation from the mean over the mean's norm."""
    number = len(gradients)
    mean = gradients.mean(dim=0)
    variance = (gradients - mean).square().sum() / (number - 1)
    # The mean of N has noise of its own in its norm.
    signal = mean.square().sum() - variance / number
    if signal <= 0:
        raise SystemExit("The mean gradient drowns in the noise: take more passages (--passages).")
    return sqrt(variance / signal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=20)
    parser.add_argument("--length", type=int, default=1024, help="tokens of a passage")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    args = parser.parse_args()
    model = adapt(load(), seed=0)
    tokens = passages(args.passages, args.length)
    gradients = torch.stack([gradient(model, item) for item in tokens])
    single = noise(gradients)
    heads = "".join(f" variance added by {error:.0%} |" for error in ERRORS)
    print(f"| passages in a batch | noise of its gradient |{heads}")
    print("| ---: " * (2 + len(ERRORS)) + "|")
    for batch in args.batches:
        v = single / sqrt(batch)
        added = "".join(f" {error**2 * (1 + v**2) / v**2:.1%} |" for error in ERRORS)
        print(f"| {batch} | {v:.0%} |{added}", flush=True)


if __name__ == "__main__":
    main()
