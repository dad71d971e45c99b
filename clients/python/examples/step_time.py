"""Cost of a training step by PyTorch alone and through the service, on one machine with as many threads.

    LORAGRAD_WORKERS=2 npm start
    python step_time.py --url http://127.0.0.1:3000 --threads 2

Forward and backward of two Llama layers (heads of width 64, LoRA on q and v), one item, for several
widths and lengths: eager and sdpa attention, and the service in place of sdpa's backward. Rounds are
interleaved, and medians compared: seconds by the clock, and of the processors of both processes, which
other work on the machine does not change.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
import urllib.request

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaModel

from loragrad import Client
from loragrad.torch import attach

WAYS = ("eager", "sdpa", "loragrad")


def make_model(width: int, length: int) -> PeftModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        max_position_embeddings=length,
    )
    model = get_peft_model(LlamaModel(config), LoraConfig(target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return model.train()


def cpu_seconds(url: str) -> float:
    """Of this process and of the service, whose metrics tell."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()
    service = re.search(r"^\w*process_cpu_seconds_total(?:\{.*\})? (\S+)$", text, re.MULTILINE)
    assert service, "no process_cpu_seconds_total in the metrics"
    return time.process_time() + float(service[1])


def step(model: PeftModel, tokens: torch.Tensor, url: str) -> tuple[float, float]:
    """Seconds of one forward and backward pass, by the clock and of the processors."""
    cpu, start = cpu_seconds(url), time.perf_counter()
    model(input_ids=tokens).last_hidden_state.square().mean().backward()
    return time.perf_counter() - start, cpu_seconds(url) - cpu


def measure(
    client: Client, width: int, length: int, rounds: int, method: str
) -> dict[str, list[float]]:
    """Median seconds of each way, by the clock and of the processors; the first round does not count."""
    model = make_model(width, length)
    tokens = torch.randint(256, (1, length))
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds + 1):
        for way in WAYS:
            model.get_base_model().set_attn_implementation("eager" if way == "eager" else "sdpa")
            if way == "loragrad":
                with attach(model, client, method=method, minimum_length=0):
                    times[way].append(step(model, tokens, client.url))
            else:
                times[way].append(step(model, tokens, client.url))
    return {
        way: [statistics.median(column) for column in zip(*seconds[1:], strict=True)]
        for way, seconds in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--method", default="exact")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    heads = [f"{way}, {of}" for of in ("s", "CPU s") for way in (*WAYS, "over eager", "over sdpa")]
    print(f"| width | length | {' | '.join(heads)} |")
    print("| ---: " * (2 + len(heads)) + "|")
    with Client(args.url) as client:
        for width in args.widths:
            for length in args.lengths:
                seconds = measure(client, width, length, args.rounds, args.method)
                columns = []
                for kind in range(2):
                    ours = seconds["loragrad"][kind]
                    columns += [f"{seconds[way][kind]:.3f}" for way in WAYS]
                    columns += [f"{ours / seconds[way][kind]:.2f}" for way in ("eager", "sdpa")]
                print(f"| {width} | {length} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
