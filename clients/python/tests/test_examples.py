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


def test_train_and_plan(client, needs, tmp_path):
    needs("rotary")
    plot = tmp_path / "loss.png"
    small = ["--steps", 3, "--length", 64]
    url = ["--url", client.url]
    output = run("train_tiny_llama.py", *url, *small, "--plot", plot, "--save", tmp_path)
    differences = re.findall(r"differ by at most (\S+),", output)
    assert len(differences) == 2 and all(float(value) < 0.01 for value in differences)
    assert output.count("error bound") >= 6
    assert plot.stat().st_size > 10_000
    saved = tmp_path / "q_proj-v_proj"
    files = [saved / "adapter", saved / "base", saved / "hidden_states.safetensors"]
    table = run("plan_adapter.py", *files, *url)
    assert len(re.findall(r"layers\.\d\.self_attn +(yes|no) ", table)) == 2


def test_sweep(client, needs, tmp_path):
    needs("rotary")
    plot = tmp_path / "sweep.png"
    output = run(
        "train_tiny_llama.py",
        *("--sweep", "--steps", 2, "--length", 64, "--plot", plot, "--url", client.url),
    )
    rows = re.findall(r"^ +(0\.\d+) +(True|False) ", output, re.MULTILINE)
    assert len(rows) == (8 if client.capabilities().correction else 4)
    assert plot.exists()
