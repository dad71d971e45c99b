"""The plots of train_tiny_llama.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")  # Draws to files; needs no display.
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from train_tiny_llama import Run


def draw_comparison(pairs: list[tuple[Run, Run]], path: Path) -> None:
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
    figure.savefig(path, dpi=150)


def draw_sweep(local: Run, runs: list[Run], path: Path) -> None:
    """Loss curves of all tolerances, their differences from PyTorch's curve, and the time they took."""
    figure, (curves, differences, times) = plt.subplots(1, 3, figsize=(15, 5))
    curves.plot(local.losses, color="black", linewidth=3, alpha=0.4, label=local.label)
    colours = [f"C{n}" for n in range(len(runs))]
    for run, colour in zip(runs, colours, strict=True):
        style = "--" if "corrected" in run.label else "-"
        curves.plot(run.losses, style, color=colour, label=run.label)
        relative = [abs(a / b - 1) for a, b in zip(run.losses, local.losses, strict=True)]
        differences.plot(relative, style, color=colour)
    curves.set(xlabel="step", ylabel="loss", title="loss, by tolerance")
    curves.legend()
    differences.set(xlabel="step", title="relative difference from PyTorch", yscale="log")
    labels = [run.label for run in (local, *runs)]
    times.barh(labels, [run.seconds for run in (local, *runs)], color=["grey", *colours])
    times.invert_yaxis()
    times.set(xlabel="seconds", title="time of the whole run")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
