"""The plots of train_tiny_llama.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")  # Draws to files; needs no display.
import matplotlib.pyplot as plt

CORRECTED = ", corrected"
COLOURS = {"exact": "black", "0.01": "C0", "0.05": "C2", "0.1": "C1", "0.2": "C3"}

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
    figure.savefig(path, dpi=100)


def draw_sweep(local: Run, runs: list[Run], path: Path) -> None:
    """Of every tolerance the loss curve, its difference from PyTorch's, the error bounds, the time."""
    figure, axes = plt.subplots(2, 2, figsize=(13, 9))
    (curves, differences), (bounds, times) = axes
    curves.plot(local.losses, color="black", linewidth=4, alpha=0.3, label=local.label)
    colours = [COLOURS[run.label.removesuffix(CORRECTED)] for run in runs]
    for run, colour in zip(runs, colours, strict=True):
        style = {"linestyle": "--" if run.label.endswith(CORRECTED) else "-", "color": colour}
        relative = [abs(a / b - 1) for a, b in zip(run.losses, local.losses, strict=True)]
        curves.plot(run.losses, label=run.label, **style)
        # The first loss precedes every gradient.
        differences.plot(range(1, len(relative)), relative[1:], **style)
        bounds.plot(run.bounds, **style)
    curves.set(ylabel="loss", title="loss")
    curves.legend(ncols=2)
    differences.set(title="relative difference of the loss from PyTorch's", yscale="log")
    # Below that it is the rounding of float32.
    differences.set_ylim(bottom=1e-7)
    bounds.set(title="largest error bound of a step (99 %)", xlabel="step", yscale="log")
    labels = [f"{run.label}{_share(run)}" for run in (local, *runs)]
    times.barh(labels, [run.seconds for run in (local, *runs)], color=["grey", *colours])
    times.invert_yaxis()
    times.set(xlabel="seconds", title="time of the whole run (share of low-rank gradients)")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def _share(run: Run) -> str:
    methods = run.methods
    return f" ({methods['low_rank'] / methods.total():.0%})" if methods else ""
