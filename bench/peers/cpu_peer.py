"""How fast plain PyTorch (fp32, eager) trains and decodes PHOTON on this CPU: one JSON line a measurement.

    python cpu_peer.py train  --preset photon-60m --batch 4 --sequence-length 512
    python cpu_peer.py decode --preset photon-60m --batch 64 --tokens 64
    python cpu_peer.py matmul

`photon bench train` and `photon bench decode` take the same sizes and print the same units; compare figures of one machine, taken
one after the other with the same number of threads (--threads, default: all cores).

  train    forward, backward of loss = CE + 0.3 rec, AdamW on all parameters, gradient norm clipped to 1; tokens/s
  decode   greedy HierGen from an empty prompt with KV caches, all rows in step; tokens/s over all rows
  matmul   the matrix ceiling: the best GFLOP/s of a large and of two typical fp32 products
"""

import argparse
import json
import os
import time

import torch
import torch.nn.functional as F

import photon_torch


def environment():
    mkl = [line.strip(" -") for line in torch.__config__.show().splitlines() if "MKL" in line and "Build" not in line]
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "libraries": mkl,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "mkldnn": torch.backends.mkldnn.is_available()}


def best_and_median(seconds):
    ordered = sorted(seconds)
    return ordered[0], ordered[len(ordered) // 2]


def train(arguments, model):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
    shape = (arguments.batch, arguments.sequence_length)
    vocab_size = model.config["vocab_size"]
    seconds = []
    for step in range(arguments.warmup + arguments.repeats):
        tokens = torch.randint(0, vocab_size, shape, generator=torch.Generator().manual_seed(step))
        begin = time.perf_counter()
        loss = model.losses(tokens)[0]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        if step >= arguments.warmup:
            seconds.append(time.perf_counter() - begin)
    best, median = best_and_median(seconds)
    num_tokens = shape[0] * shape[1]
    return {"batch": shape[0], "sequence_length": shape[1], "tokens_per_second": num_tokens / median,
            "best_tokens_per_second": num_tokens / best, "loss": loss.item()}


def decode(arguments, model):
    model.eval()
    seconds = []
    for step in range(arguments.warmup + arguments.repeats):
        begin = time.perf_counter()
        tokens = model.generate(arguments.batch, arguments.tokens)
        if step >= arguments.warmup:
            seconds.append(time.perf_counter() - begin)
    best, median = best_and_median(seconds)
    return {"batch": arguments.batch, "tokens": arguments.tokens, "tokens_per_second": tokens.numel() / median,
            "best_tokens_per_second": tokens.numel() / best}


def matmul(arguments):
    results = []
    for m, n, k in ((2048, 2048, 2048), (2048, 1408, 512), (64, 1408, 512)):
        a, weight = torch.randn(m, k), torch.randn(n, k)
        repeats = max(3, int(2e10 / (2 * m * n * k)))
        for _ in range(3):
            F.linear(a, weight)
        seconds = []
        for _ in range(5):
            begin = time.perf_counter()
            for _ in range(repeats):
                F.linear(a, weight)
            seconds.append((time.perf_counter() - begin) / repeats)
        results.append({"m": m, "n": n, "k": k, "gflops": 2e-9 * m * n * k / min(seconds)})
    return {"products": results}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "decode", "matmul"])
    parser.add_argument("--preset", default="photon-60m", choices=sorted(photon_torch.PRESETS))
    parser.add_argument("--model", help="a weights folder to measure instead of a preset with fresh weights")
    parser.add_argument("--batch", type=int, default=4, help="sequences a step, or rows decoded together")
    parser.add_argument("--sequence-length", type=int, default=512, help="tokens of a training sequence")
    parser.add_argument("--tokens", type=int, default=64, help="tokens a row to decode")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--warmup", type=int, default=1, help="repeats that are not counted")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plain-attention", action="store_true", help="softmax written out, instead of PyTorch's fused one")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    result = {"bench": "peer " + arguments.what}
    if arguments.what == "matmul":
        result.update(matmul(arguments))
    else:
        if arguments.model:
            model = photon_torch.load(arguments.model)
            result["model"] = arguments.model
        else:
            model = photon_torch.Photon(photon_torch.PRESETS[arguments.preset]).initialise(0)
            result["model"] = arguments.preset
        if arguments.plain_attention:
            model.set_attention(photon_torch.plain_attention)
        result["attention"] = "plain" if arguments.plain_attention else "fused"
        result.update((train if arguments.what == "train" else decode)(arguments, model))
    print(json.dumps({**result, **environment()}))


if __name__ == "__main__":
    main()
