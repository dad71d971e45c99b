#!/usr/bin/env python3
"""LoRA gradients of one attention head in PyTorch on the CPU, in the ways a trainer could compute them.

    python3 bench/torch_attention.py --length 4096 --adapters qv

times each way and prints one line of JSON per way. With --serve it reads such settings as JSON, one
object a line, and answers each with one line: that is how bench/exact/exact.ts takes turns with it.

    {"way": "autograd", "length": 4096, "dim": 64, "rank": 8, "adapters": "qv", "threads": 1}
    {"seconds": 0.31}

For bench/coverage/coverage.ts it also computes the gradients of a given problem, in float64 by autograd: a line
{"problem": {...}} is answered by {"gradients": {"q_proj.lora_A": [...], ...}} (see given_gradients).

What is computed is the same in each way: from hidden states X (L, dim), frozen weights, adapters
lora_A (r, dim) and lora_B (dim, r) and an upstream gradient G (L, dim), the gradients of lora_A and
lora_B of the adapted projections. Only these require a gradient.

    autograd   softmax(Q K^T / sqrt(d)) V as written, and loss.backward()
    sdpa       torch.nn.functional.scaled_dot_product_attention (PyTorch 2), and backward()
    blocked    row blocks by hand: scores recomputed never, P of a block used while it is hot,
               only those of dQ, dK, dV that some adapter needs; projections through autograd
"""

import argparse
import functools
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

BLOCK_ROWS = 512


class Problem:
    """One head; adapters is a subset of the letters q, k, v."""

    def __init__(self, length, dim, rank, adapters, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape, scale=1.0):
            return scale * torch.randn(*shape, generator=generator)

        self.x = normal(length, dim)
        self.upstream = normal(length, dim)
        self.weight = {p: normal(dim, dim, scale=dim**-0.5) for p in "qkv"}
        self.adapter = {
            p: (
                normal(rank, dim, scale=dim**-0.5).requires_grad_(),
                normal(dim, rank, scale=0.3 * rank**-0.5).requires_grad_(),
            )
            for p in adapters
        }
        self.beta = dim**-0.5

    def projections(self):
        """Q, K, V (L, dim), through W + B A kept apart, as adapters do it (scaling s = 1)."""
        out = []
        for p in "qkv":
            y = self.x @ self.weight[p].T
            if p in self.adapter:
                a, b = self.adapter[p]
                y = y + (self.x @ a.T) @ b.T
            out.append(y)
        return out

    def parameters(self):
        return [tensor for pair in self.adapter.values() for tensor in pair]

    def gradients(self):
        return [tensor.grad for tensor in self.parameters()]

    def forget(self):
        for tensor in self.parameters():
            tensor.grad = None


def autograd(problem):
    q, k, v = problem.projections()
    o = torch.softmax((q @ k.T) * problem.beta, dim=-1) @ v
    o.backward(problem.upstream)


def sdpa(problem):
    # The fused kernel wants (batch, heads, length, dim).
    q, k, v = (t[None, None] for t in problem.projections())
    o = F.scaled_dot_product_attention(q, k, v, scale=problem.beta)
    o.backward(problem.upstream[None, None])


def blocked(problem):
    projected = problem.projections()
    q, k, v = (t.detach() for t in projected)
    need_q, need_k, need_v = (t.requires_grad for t in projected)
    g, beta = problem.upstream, problem.beta
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for first in range(0, len(q), BLOCK_ROWS):
        rows = slice(first, first + BLOCK_ROWS)
        p = torch.softmax((q[rows] * beta) @ k.T, dim=-1)
        if need_v:
            dv.addmm_(p.T, g[rows])
        if need_q or need_k:
            ds = g[rows] @ v.T
            # G.O = sum_j P dP, so that O need not be formed.
            mean = torch.linalg.vecdot(p, ds).unsqueeze(1) if hasattr(torch.linalg, "vecdot") \
                else (p * ds).sum(dim=1, keepdim=True)
            ds.sub_(mean).mul_(p)
            if need_q:
                torch.mm(ds, k, out=dq[rows]).mul_(beta)
            if need_k:
                dk.addmm_(ds.T, q[rows], alpha=beta)
    needed = [(t, d) for t, d in zip(projected, (dq, dk, dv)) if t.requires_grad]
    torch.autograd.backward(*zip(*needed))


WAYS = {"autograd": autograd, "blocked": blocked}
if hasattr(F, "scaled_dot_product_attention"):
    WAYS["sdpa"] = sdpa


@functools.lru_cache(maxsize=1)
def make_problem(length, dim, rank, adapters):
    return Problem(length, dim, rank, adapters)


def run(way, length, dim=64, rank=8, adapters="qv", threads=1):
    """Seconds of one forward and backward."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    problem = make_problem(length, dim, rank, adapters)
    problem.forget()
    start = time.perf_counter()
    WAYS[way](problem)
    return time.perf_counter() - start


def check():
    """All ways compute the same gradients."""
    problem = Problem(1000, 32, 4, "qkv")
    answers = {}
    for name, way in WAYS.items():
        problem.forget()
        way(problem)
        answers[name] = problem.gradients()
    for name, gradients in answers.items():
        for expected, actual in zip(answers["autograd"], gradients):
            error = (actual - expected).norm() / expected.norm()
            assert error < 1e-4, f"{name}: {error}"


def given_gradients(problem):
    """By name of the tensor, flat. Tensors of the problem: {"shape": [...], "data": [...]}."""

    def tensor(wire):
        return wire and torch.tensor(wire["data"], dtype=torch.float64).reshape(wire["shape"])

    leaves, projected = {}, []
    for name, states in zip(("q_proj", "k_proj", "v_proj"), ("query", "key", "value")):
        projection, x = problem[name], tensor(problem[states])
        y = F.linear(x, tensor(projection["weight"]), tensor(projection["bias"]))
        if projection["lora_A"]:
            a, b = (tensor(projection[part]).requires_grad_() for part in ("lora_A", "lora_B"))
            leaves |= {f"{name}.lora_A": a, f"{name}.lora_B": b}
            y = y + projection["scaling"] * (x @ a.T) @ b.T
        projected.append(y)
    q, k, v = projected
    scores = q @ k.T * problem["beta"]
    if problem["causal"]:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
    o = torch.softmax(scores, dim=-1) @ v
    objective = tensor(problem["objective"])
    if problem["kind"] == "target":
        (0.5 * (o - objective).square().sum()).backward()
    else:
        o.backward(objective)
    return {name: leaf.grad.flatten().tolist() for name, leaf in leaves.items()}


def answer_to(request):
    if "problem" in request:
        return {"gradients": given_gradients(request["problem"])}
    return {"seconds": run(**request)}


def serve():
    print(json.dumps({"torch": torch.__version__, "ways": list(WAYS)}), flush=True)
    for line in sys.stdin:
        try:
            answer = answer_to(json.loads(line))
        except RuntimeError as error:  # out of memory: autograd keeps L x L matrices
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--adapters", default="qv")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = vars(parser.parse_args())
    rounds = options.pop("rounds")
    if options.pop("serve"):
        return serve()
    check()
    for way in WAYS:
        times = [run(way, **options) for _ in range(rounds)]
        median = statistics.median(times)
        rate = 14 * options["length"] ** 2 * options["dim"] / median / 1e9
        print(json.dumps({"way": way, **options, "seconds": median, "gflops_of_14L2d": round(rate)}))


if __name__ == "__main__":
    main()
