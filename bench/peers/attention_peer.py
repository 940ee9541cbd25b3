#!/usr/bin/env python3
"""Causal attention of PyTorch's flash and cuDNN backends on one GPU: medians in milliseconds, and TFLOP/s by half of the square."""
import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

SHAPES = [  # sequences, positions, heads, width
    (16, 512, 12, 128),
    (16, 2048, 12, 128),
    (1, 16384, 12, 128),
    (1, 65536, 12, 128),
    (16, 2048, 24, 64),
    (1, 16384, 24, 64),
]


def median_ms(call, repeats=7):
    for _ in range(2):
        call()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def main():
    for batch, positions, heads, width in SHAPES:
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
            shape = (batch, positions, heads, width)
            draw = lambda: torch.randn(shape, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
            q, k, v = (draw().requires_grad_() for _ in range(3))
            dout = draw()
            with sdpa_kernel(backend):
                forward = median_ms(lambda: scaled_dot_product_attention(q, k, v, is_causal=True))
                out = scaled_dot_product_attention(q, k, v, is_causal=True)
                backward = median_ms(lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True))
            product = 1e-9 * batch * heads * width * positions**2
            print(f"{backend.name} {shape}: forward {forward:.3f} ms {2 * product / forward:.1f} TFLOP/s, "
                  f"backward {backward:.3f} ms {5 * product / backward:.1f} TFLOP/s", flush=True)


if __name__ == "__main__":
    main()
