"""Draws the training losses of the learning run as an SVG: python3 plot.py OUT.svg NAME=metrics.jsonl..."""

import json
import sys

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 380, 56, 44, 28
COLORS = ["#1f77b4", "#d62728", "#2ca02c"]


def smooth(values, half=12):
    return [sum(values[max(0, i - half):i + half + 1]) / len(values[max(0, i - half):i + half + 1]) for i in range(len(values))]


def main():
    curves = []
    for argument in sys.argv[2:]:
        name, path = argument.split("=", 1)
        rows = [json.loads(line) for line in open(path)]
        curves.append((name, [row["tokens"] / 1e6 for row in rows], smooth([row["ce"] for row in rows]),
                       [(row["tokens"] / 1e6, row["val_loss"]) for row in rows if "val_loss" in row]))
    most = max(curve[1][-1] for curve in curves)
    low, high = 1.0, 7.0
    x = lambda t: LEFT + t / most * (WIDTH - LEFT - 16)
    y = lambda v: TOP + (high - min(max(v, low), high)) / (high - low) * (HEIGHT - TOP - BOTTOM)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for value in range(int(low), int(high) + 1):
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - 16}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>')
    for t in range(0, int(most) + 1, 20):
        out.append(f'<text x="{x(t):.1f}" y="{HEIGHT - 24}" text-anchor="middle">{t}</text>')
    out.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">million training tokens</text>'
               f'<text x="{LEFT}" y="16">cross-entropy, nats a token (line: training, mean of 25 steps; dots: validation)</text>')
    for index, (name, tokens, losses, validation) in enumerate(curves):
        color = COLORS[index]
        points = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in list(zip(tokens, losses))[::4])
        out.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{points}"/>')
        out += [f'<circle cx="{x(t):.1f}" cy="{y(v):.1f}" r="3" fill="{color}"/>' for t, v in validation]
        out.append(f'<text x="{WIDTH - 150}" y="{TOP + 24 + 18 * index}" fill="{color}">{name}</text>')
    out.append("</svg>")
    with open(sys.argv[1], "w") as file:
        file.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
