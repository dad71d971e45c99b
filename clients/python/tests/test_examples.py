"""The examples run, and what they print is so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

for package in ("matplotlib", "peft", "safetensors", "transformers"):
    pytest.importorskip(package)


def run(script, *arguments):
    command = [sys.executable, EXAMPLES / script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


SMALL = ("--steps", 6, "--length", 128)


@pytest.mark.parametrize("method, limit", [("exact", 0.01), ("auto", 0.03)])
def test_loss_curves_agree(states_url, tmp_path, method, limit):
    plot = tmp_path / "loss.png"
    output = run(
        "train_tiny_llama.py",
        *("--url", states_url, "--method", method, *SMALL, "--plot", plot, "--save", tmp_path),
    )
    losses = re.findall(r"^ +\d+ +(\d+\.\d+) +(\d+\.\d+) .*error bound \d", output, re.MULTILINE)
    assert len(losses) == 2 * 6
    for ours, theirs in losses:
        assert abs(float(theirs) / float(ours) - 1) < limit
    falling = [float(ours) for ours, _ in losses[:6]]
    assert falling[-1] < 0.95 * falling[0], "a curve that does not move shows nothing"
    assert plot.stat().st_size > 10_000
    saved = tmp_path / "q_proj-v_proj"
    files = [saved / "adapter", saved / "base", saved / "hidden_states.safetensors"]
    table = run("plan_adapter.py", *files, "--url", states_url)
    assert len(re.findall(r"layers\.\d\.self_attn +(yes|no) ", table)) == 2
