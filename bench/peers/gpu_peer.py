"""How fast plain PyTorch trains and decodes PHOTON and its Transformer baseline on one GPU, in bf16: one JSON line a measurement.

    python gpu_peer.py train  --preset photon-600m --batch 16 --sequence-length 2048
    python gpu_peer.py train  --preset vanilla-600m --batch 16 --sequence-length 2048
    python gpu_peer.py decode --preset photon-600m --batch 256 --prompt 128 --tokens 256
    python gpu_peer.py decode --preset vanilla-600m --batch 192 --prompt 2048 --tokens 64
    torchrun --nproc-per-node 2 gpu_peer.py train --preset photon-600m      # DistributedDataParallel, --batch sequences a GPU

`photon bench train` and `photon bench decode` take the same sizes and print the same units; run both on one card, one after the other.

  train    fp32 weights under bf16 autocast, torch.compile of the whole loss (--compile layers: of each layer and of the cross-entropy, which compiles
           faster), AdamW (fused), gradient norm clipped to 1; tokens/s
  decode   bf16 weights, greedy HierGen (vanilla: plain) with KV caches, all rows in step, PyTorch's flash kernel where it can (cuDNN's plans every
           new length of a cache anew); tokens/s after the prompts are encoded
  matmul   the bf16 matrix ceiling and the bandwidth of a device copy
"""

import argparse
import json
import os
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import photon_torch
from photon_torch import Cache, Photon, Stack, uniform_config

PHOTON = {
    "photon-60m": photon_torch.PRESETS["photon-60m"],
    "photon-125m": photon_torch.PRESETS["photon-125m"],
    "photon-600m": uniform_config(1536, 12, 4096, (4, 4, 4, 4)),
    "photon-1.2b": uniform_config(2048, 16, 5632, (5, 5, 5, 5)),
}
VANILLA = {
    "vanilla-600m": {"vocab_size": 32000, "dim": 1536, "layers": 18, "heads": 12, "ffn": 4096},
    "vanilla-1.2b": {"vocab_size": 32000, "dim": 2048, "layers": 22, "heads": 16, "ffn": 5632},
}


def causal_attention(q, k, v, mask):
    """PyTorch's flash kernel where the mask is plainly causal."""
    if mask is not None and q.shape[-2] == k.shape[-2]:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Vanilla(nn.Module):
    """logits[i] predicts token i: the stack reads [bos, t_0 .. t_{T-2}]."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config["vocab_size"], config["dim"])
        self.stack = Stack(config["dim"], config, 1e-5)
        self.lm_head = nn.Linear(config["dim"], config["vocab_size"], bias=False)

    def initialise(self, seed):
        torch.manual_seed(seed)
        for name, parameter in self.named_parameters():
            if "norm" not in name:
                nn.init.normal_(parameter, 0.0, 0.02)
        return self

    def losses(self, tokens):
        read = F.pad(tokens[:, :-1], (1, 0), value=1)
        return (photon_torch.cross_entropy(self.lm_head(self.stack(self.embed(read))), tokens),)


def make_model(preset):
    with torch.device("cuda"):
        model = (Vanilla(VANILLA[preset]) if preset in VANILLA else Photon(PHOTON[preset])).initialise(0)
    if preset in VANILLA:
        model.stack.attend = causal_attention
        return model
    for level in model.levels:
        level.encoder.attend = causal_attention
        level.decoder.attend = causal_attention
    return model


def timed(work):
    torch.cuda.synchronize()
    begin = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return time.perf_counter() - begin, result


def train(arguments):
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(rank)
    model = make_model(arguments.preset)
    loss_of = lambda tokens: model.losses(tokens)[0]
    if ranks > 1:
        torch.distributed.init_process_group("nccl")

        class Loss(nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self, tokens):
                return self.model.losses(tokens)[0]

        loss_of = nn.parallel.DistributedDataParallel(Loss(), device_ids=[rank])
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):  # makes the tables of angles, which would else be compiled once more
        model.losses(torch.zeros((1, arguments.sequence_length), dtype=torch.int64, device="cuda"))
    if arguments.compile == "whole":
        loss_of = torch.compile(loss_of, dynamic=False)
    elif arguments.compile == "layers":
        for module in model.modules():
            if isinstance(module, photon_torch.Layer):
                module.compile(dynamic=False)
        photon_torch.cross_entropy = torch.compile(photon_torch.cross_entropy, dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    vocab_size = model.config["vocab_size"]

    def step(seed):
        generator = torch.Generator(device="cuda").manual_seed(seed * ranks + rank)
        shape = (arguments.batch, arguments.sequence_length)
        tokens = torch.randint(0, vocab_size, shape, generator=generator, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    for seed in range(arguments.warmup):
        step(seed)
    seconds = [timed(lambda: step(100 + i))[0] for i in range(arguments.repeats)]
    median = sorted(seconds)[len(seconds) // 2]
    result = {"batch": arguments.batch * ranks, "sequence_length": arguments.sequence_length, "gpus": ranks,
              "compiled": arguments.compile, "step_seconds": median,
              "tokens_per_second": arguments.batch * ranks * arguments.sequence_length / median,
              "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30}
    return result if rank == 0 else None


@torch.no_grad()
def decode_photon(model, batch, prompt_tokens, num_tokens):
    """Greedy HierGen with KV caches: prompts encoded in one pass, then group after group. Seconds of decoding alone."""
    assert prompt_tokens % model.group_tokens == 0
    dtype = model.embed.weight.dtype
    capacity, caches = prompt_tokens + num_tokens, []
    for level in model.levels:
        capacity = -(-capacity // level.chunk)
        caches.append(Cache(level.encoder, batch, capacity, dtype))
    x = model.embed(torch.randint(0, model.config["vocab_size"], (batch, prompt_tokens)))
    for level, cache in zip(model.levels, caches):
        grouped = x.reshape(batch, x.shape[1] // level.chunk, level.chunk * x.shape[2])
        x = level.encoder(level.chunker(grouped), cache)
    locals_ = [Cache(level.decoder, batch, level.prefix + level.chunk - 1, dtype) for level in model.levels]
    tokens = []

    def unfold(index, condition):
        level, local = model.levels[index], locals_[index]
        local.length = 0
        y = level.decoder(level.converter(condition).view(batch, level.prefix, level.below), local)[:, -1:]
        units = []
        for j in range(level.chunk):
            if index == 0:
                tokens.append(model.head(y).argmax(-1))
                units.append(model.embed(tokens[-1]))
            else:
                units.append(unfold(index - 1, y))
            if j + 1 < level.chunk:
                y = level.decoder(units[-1], local)
        return level.encoder(level.chunker(torch.cat(units, dim=-1)), caches[index])

    def generate():
        condition = x[:, -1:]
        while len(tokens) < num_tokens:
            condition = unfold(len(model.levels) - 1, condition)

    return timed(generate)[0]


@torch.no_grad()
def decode_vanilla(model, batch, prompt_tokens, num_tokens):
    cache = Cache(model.stack, batch, prompt_tokens + num_tokens, model.embed.weight.dtype)
    y = None
    prompts = torch.randint(0, model.config["vocab_size"], (batch, prompt_tokens))
    for begin in range(0, prompt_tokens, 128):  # in pieces, so that the prompt's activations fit beside the cache
        piece = prompts[:, begin:begin + 128]
        y = model.stack(model.embed(piece), cache)[:, -1:]

    def generate():
        state = y
        for _ in range(num_tokens):
            token = model.lm_head(state).argmax(-1)
            state = model.stack(model.embed(token), cache)

    return timed(generate)[0]


def decode(arguments):
    torch.set_default_device("cuda")
    model = make_model(arguments.preset).bfloat16().eval()
    run = decode_vanilla if arguments.preset in VANILLA else decode_photon
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        run(model, arguments.batch, arguments.prompt, 16)
        seconds = run(model, arguments.batch, arguments.prompt, arguments.tokens)
    return {"batch": arguments.batch, "prompt": arguments.prompt, "new_tokens": arguments.tokens, "decode_seconds": seconds,
            "tokens_per_second": arguments.batch * arguments.tokens / seconds,
            "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30}


def matmul(arguments):
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    big = torch.randn(2**30, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(big)
    for _ in range(3):
        a @ b, target.copy_(big)
    product = sorted(timed(lambda: a @ b)[0] for _ in range(20))[10]
    copied = sorted(timed(lambda: target.copy_(big))[0] for _ in range(20))[10]
    return {"tflops": 2e-12 * 8192**3 / product, "copy_gb_per_second": 2 * big.nbytes / copied * 1e-9}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "decode", "matmul"])
    parser.add_argument("--preset", default="photon-600m", choices=sorted([*PHOTON, *VANILLA]))
    parser.add_argument("--batch", type=int, default=16, help="sequences a step on each GPU, or rows decoded together")
    parser.add_argument("--sequence-length", type=int, default=2048, help="tokens of a training sequence")
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens a row")
    parser.add_argument("--tokens", type=int, default=256, help="tokens a row to decode")
    parser.add_argument("--compile", default="whole", choices=["whole", "layers", "none"], help="what torch.compile takes at once")
    parser.add_argument("--warmup", type=int, default=4, help="training steps that are not counted")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    result = {"train": train, "decode": decode, "matmul": matmul}[arguments.what](arguments)
    if result is not None:
        print(json.dumps({"bench": "peer " + arguments.what, "model": arguments.preset, **result,
                          "torch": torch.__version__, "gpu": torch.cuda.get_device_name()}), flush=True)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
