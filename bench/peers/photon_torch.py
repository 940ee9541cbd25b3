"""PHOTON in plain PyTorch: the mathematics of docs/model.md and nothing else.

It is the peer that photon's speed on the CPU is compared with (cpu_peer.py), and the independent implementation that
tests/model/fixtures/ come from. Its parameters bear the names of photon's weights files, so both read the same ones.

Shapes: B sequences, T tokens, M_l units at level l, D_l widths; X(l) and Y(l) are [B, M_l, D_l].
"""

import json
import math
import os

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rope_tables(positions, head_dim, theta, dtype):
    """cos and sin, [positions, head_dim], of the half-split layout; angles in double, rounded once."""
    inverse = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device) / head_dim)
    angles = positions.double()[:, None] * inverse[None, :]
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


def plain_attention(q, k, v, mask):
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v


def fused_attention(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Cache:
    """Keys and values of one stack, [layers][B, kv_heads, capacity, head_dim], and how many positions are filled."""

    def __init__(self, stack, batch, capacity, dtype):
        shape = (batch, stack.kv_heads, capacity, stack.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype) for _ in stack.layers]
        self.values = [torch.zeros(shape, dtype=dtype) for _ in stack.layers]
        self.length = 0


class Attention(nn.Module):
    def __init__(self, dim, heads, kv_heads):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, dim // heads
        self.q_proj = nn.Linear(dim, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(dim, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(dim, kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, dim, bias=False)

    def forward(self, x, cos, sin, mask, attend, keys=None, values=None, start=0):
        batch, length, _ = x.shape
        split = lambda y, heads: y.view(batch, length, heads, self.head_dim).transpose(1, 2)
        q = rotate(split(self.q_proj(x), self.heads), cos, sin)
        k = rotate(split(self.k_proj(x), self.kv_heads), cos, sin)
        v = split(self.v_proj(x), self.kv_heads)
        if keys is not None:
            keys[:, :, start:start + length] = k
            values[:, :, start:start + length] = v
            k, v = keys[:, :, :start + length], values[:, :, :start + length]
        if self.kv_heads != self.heads:
            k = k.repeat_interleave(self.heads // self.kv_heads, dim=1)
            v = v.repeat_interleave(self.heads // self.kv_heads, dim=1)
        out = attend(q, k, v, mask)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class Mlp(nn.Module):
    def __init__(self, dim, ffn):
        super().__init__()
        self.gate_proj = nn.Linear(dim, ffn, bias=False)
        self.up_proj = nn.Linear(dim, ffn, bias=False)
        self.down_proj = nn.Linear(ffn, dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, dim, heads, kv_heads, ffn, eps):
        super().__init__()
        self.attn_norm = RMSNorm(dim, eps)
        self.attn = Attention(dim, heads, kv_heads)
        self.mlp_norm = RMSNorm(dim, eps)
        self.mlp = Mlp(dim, ffn)

    def forward(self, x, *rest):
        x = x + self.attn(self.attn_norm(x), *rest)
        return x + self.mlp(self.mlp_norm(x))


class Stack(nn.Module):
    """A pre-norm LLaMA-style causal Transformer with a final norm; `window` > 0 limits how far back a position sees."""

    def __init__(self, dim, config, eps):
        super().__init__()
        self.kv_heads = config.get("kv_heads") or config["heads"]
        self.head_dim = dim // config["heads"]
        self.theta = config.get("rope_theta", 10000.0)
        self.window = config.get("window", 0)
        self.attend = fused_attention
        self.tables = {}  # cos and sin of the positions seen so far, by dtype and device
        self.layers = nn.ModuleList(
            Layer(dim, config["heads"], self.kv_heads, config["ffn"], eps) for _ in range(config["layers"]))
        self.norm = RMSNorm(dim, eps)

    def rope(self, start, x):
        end, key = start + x.shape[1], (x.dtype, x.device)
        if key not in self.tables or self.tables[key][0].shape[0] < end:
            positions = torch.arange(max(256, 1 << (end - 1).bit_length()), device=x.device)
            self.tables[key] = rope_tables(positions, self.head_dim, self.theta, x.dtype)
        cos, sin = self.tables[key]
        return cos[start:end], sin[start:end]

    def forward(self, x, cache=None):
        length = x.shape[1]
        start = cache.length if cache else 0
        cos, sin = self.rope(start, x)
        mask = None
        if length > 1 or self.window:
            i = torch.arange(start, start + length, device=x.device)[:, None]
            j = torch.arange(start + length, device=x.device)[None, :]
            mask = j <= i
            if self.window:
                mask = mask & (j > i - self.window)
        for index, layer in enumerate(self.layers):
            stored = (cache.keys[index], cache.values[index], start) if cache else ()
            x = layer(x, cos, sin, mask, self.attend, *stored)
        if cache:
            cache.length += length
        return self.norm(x)


class Level(nn.Module):
    def __init__(self, below, config, eps):
        super().__init__()
        self.dim, self.below, self.chunk, self.prefix = config["dim"], below, config["chunk"], config["prefix"]
        self.chunker = nn.Linear(self.chunk * below, self.dim, bias=False)
        self.converter = nn.Linear(self.dim, self.prefix * below, bias=False)
        self.encoder = Stack(self.dim, config["encoder"], eps)
        self.decoder = Stack(below, dict(config["decoder"], window=0), eps)


def cross_entropy(logits, tokens):
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens.reshape(-1))


class Photon(nn.Module):
    """`config` is the object in config.json."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.lookback = config.get("lookback", 0)
        eps = config.get("norm_eps", 1e-5)
        self.embed = nn.Embedding(config["vocab_size"], config["dim"])
        widths = [config["dim"]] + [level["dim"] for level in config["levels"]]
        self.levels = nn.ModuleList(
            Level(widths[index], level, eps) for index, level in enumerate(config["levels"]))
        self.start_latent = nn.Parameter(torch.zeros(widths[-1]))
        if not config.get("tie_embeddings", False):
            self.lm_head = nn.Linear(config["dim"], config["vocab_size"], bias=False)
        self.group_tokens = math.prod(level.chunk for level in self.levels)

    def set_attention(self, attend):
        for level in self.levels:
            level.encoder.attend = attend
            level.decoder.attend = attend

    def initialise(self, seed, std=0.02):
        generator = torch.Generator(self.start_latent.device).manual_seed(seed)
        for name, parameter in self.named_parameters():
            if "norm" in name:
                nn.init.ones_(parameter)
            elif name == "start_latent":
                nn.init.zeros_(parameter)
            else:
                scale = std
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    level, stack = name.split(".")[1:3]
                    scale /= math.sqrt(2 * len(getattr(self.levels[int(level)], stack).layers))
                with torch.no_grad():
                    parameter.normal_(0.0, scale, generator=generator)
        return self

    def head(self, y):
        return F.linear(y, self.embed.weight if self.config.get("tie_embeddings", False) else self.lm_head.weight)

    def encode(self, tokens):
        """tokens [B, T], T a multiple of the group -> [X(0), .., X(L)]."""
        states = [self.embed(tokens)]
        for level in self.levels:
            batch, units, dim = states[-1].shape
            grouped = states[-1].reshape(batch, units // level.chunk, level.chunk * dim)
            states.append(level.encoder(level.chunker(grouped)))
        return states

    def decode(self, states):
        """[X(0), .., X(L)] -> [Y(0), .., Y(L-1)], every decoder reading the encoders' states (teacher forcing)."""
        top = states[-1]
        start = self.start_latent.expand(top.shape[0], 1, -1)
        condition = torch.cat([start, top[:, :-1]], dim=1)
        outputs = []
        for index in range(len(self.levels) - 1, -1, -1):
            level, content = self.levels[index], states[index]
            batch, units, _ = condition.shape
            rows = batch * units
            parts = [level.converter(condition).reshape(rows, level.prefix, level.below)]
            k = self.lookback if index == 0 else 0
            if k:
                padded = F.pad(content, (0, 0, k, 0))  # padded[i] is the unit k places before unit i, zeros before the first
                windows = [padded[:, j:j + content.shape[1]:level.chunk] for j in range(k)]
                parts.append(torch.stack(windows, dim=2).reshape(rows, k, level.below))
            parts.append(content.reshape(rows, level.chunk, level.below)[:, :level.chunk - 1])
            out = level.decoder(torch.cat(parts, dim=1))[:, level.prefix + k - 1:]
            condition = out.reshape(batch, units * level.chunk, level.below)
            outputs.insert(0, condition)
        return outputs

    def forward(self, tokens):
        """Logits [B, T, V]; logits[i] predicts token i itself."""
        length = tokens.shape[1]
        padded = F.pad(tokens, (0, -length % self.group_tokens))
        return self.head(self.decode(self.encode(padded))[0][:, :length])

    def losses(self, tokens, alpha=0.3, distance="cosine"):
        """loss, ce and rec of full sequences, tokens [B, T] with T of any length."""
        length = tokens.shape[1]
        states = self.encode(F.pad(tokens, (0, -length % self.group_tokens)))
        outputs = self.decode(states)
        logits = self.head(outputs[0][:, :length])
        ce = cross_entropy(logits, tokens)
        rec = torch.zeros((), dtype=ce.dtype)
        per_unit = 1
        for index in range(1, len(self.levels)):
            per_unit *= self.levels[index - 1].chunk
            whole = length // per_unit  # units that hold no padding
            y, x = outputs[index][:, :whole], states[index][:, :whole].detach()
            if distance == "cosine":
                rec = rec + (1 - F.cosine_similarity(y, x, dim=-1, eps=1e-12)).mean()
            elif distance == "smooth_l1":
                rec = rec + F.smooth_l1_loss(y, x)
            else:
                rec = rec + F.mse_loss(y, x)
        return ce + alpha * rec, ce, rec

    @torch.no_grad()
    def generate(self, batch, num_tokens, capacity_tokens=None):
        """Greedy HierGen from an empty prompt with KV caches, all rows in step: token ids [batch, num_tokens]."""
        if self.lookback:
            raise NotImplementedError("generate() has no lookback")
        dtype = self.embed.weight.dtype
        capacity, caches = capacity_tokens or num_tokens + self.group_tokens, []
        for level in self.levels:
            capacity = -(-capacity // level.chunk)
            caches.append(Cache(level.encoder, batch, capacity, dtype))
        tokens = []

        def unfold(index, condition):
            """Decodes the group of one level-(index+1) unit and gives that unit's encoder state, [B, 1, D]."""
            level = self.levels[index]
            local = Cache(level.decoder, batch, level.prefix + level.chunk - 1, dtype)
            y = level.decoder(level.converter(condition).view(batch, level.prefix, level.below), local)[:, -1:]
            units = []
            for j in range(level.chunk):
                if index == 0:
                    token = self.head(y).argmax(-1)
                    tokens.append(token)
                    units.append(self.embed(token))
                else:
                    units.append(unfold(index - 1, y))
                if j + 1 < level.chunk:
                    y = level.decoder(units[-1], local)
            return level.encoder(level.chunker(torch.cat(units, dim=-1)), caches[index])

        condition = self.start_latent.expand(batch, 1, -1)
        while len(tokens) < num_tokens:
            condition = unfold(len(self.levels) - 1, condition)
        return torch.cat(tokens, dim=1)[:, :num_tokens]


def load(folder):
    """Opens a weights folder written by `photon export` or `photon init`."""
    from safetensors.torch import load_file
    with open(os.path.join(folder, "config.json")) as file:
        model = Photon(json.load(file))
    model.load_state_dict(load_file(os.path.join(folder, "model.safetensors")))
    return model


def uniform_config(width, heads, ffn, layers, vocab_size=32000, chunk=4, prefix=4):
    """config.json of a two-level preset; layers are (enc1, enc2, dec2, dec1)."""
    stack = lambda n: {"layers": n, "heads": heads, "ffn": ffn}
    enc1, enc2, dec2, dec1 = layers
    return {"vocab_size": vocab_size, "dim": width, "levels": [
        {"dim": width, "chunk": chunk, "prefix": prefix, "encoder": stack(enc1), "decoder": stack(dec1)},
        {"dim": width, "chunk": chunk, "prefix": prefix, "encoder": stack(enc2), "decoder": stack(dec2)}]}


PRESETS = {
    "photon-60m": uniform_config(512, 8, 1408, (3, 3, 2, 3)),
    "photon-125m": uniform_config(768, 12, 2048, (3, 3, 3, 3)),
}
