#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws what benchmarks/run and benchmarks/peers/run.py measured, as SVG for light and dark pages.

    benchmarks/plot.py gqa_bench.json --peers peers.json --out benchmarks/results
"""
import argparse
import json
import os
import re

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

INK, FAINT = "#24292f", "#8c959f"  # INK turns light on dark pages, see save()
COLOURS = ["#2f81c4", "#d9822b", "#2f9e6e", "#b8559c", "#c9a227", "#7a6fd0", "#5b8a8a"]

# name, layers, query heads, KV heads, head_dim, what the model itself keeps in elements a token and layer.
MODELS = [
    ("Llama 2 7B", 32, 32, 32, 128, None),
    ("Llama 3.1 8B", 32, 32, 8, 128, None),
    ("Gemma 1 2B", 18, 8, 1, 256, None),
    ("Gemma 2 27B", 46, 32, 16, 128, None),
    ("Llama 3.1 70B", 80, 64, 8, 128, None),
    ("Llama 3.1 405B", 126, 128, 8, 128, None),
    ("DeepSeek-V3", 61, 128, 128, 128, 512 + 64),  # MLA: one latent and one rotated key
]


def style():
    plt.rcParams.update({
        "svg.hashsalt": "gqa", "svg.fonttype": "path", "font.size": 10, "figure.constrained_layout.use": True,
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": FAINT, "grid.alpha": 0.25,
        "axes.axisbelow": True, "legend.frameon": False, "axes.prop_cycle": plt.cycler(color=COLOURS)})


def save(figure, folder, name):
    path = os.path.join(folder, name)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    plt.close(figure)
    svg = open(path).read()
    dark = "".join(f'[style*="{what}: {INK}"] {{ {what}: #e6edf3 !important }} ' for what in ("fill", "stroke"))
    svg = re.sub(r"(<svg [^>]*>)", rf"\1<style>@media (prefers-color-scheme: dark) {{ {dark}}}</style>", svg, count=1)
    open(path, "w").write(svg)
    print(path)


class Report:
    """Median of each row, by name."""

    def __init__(self, file):
        report = json.load(open(file))
        self.context = report["context"]
        self.rows = {b["run_name"]: b for b in report["benchmarks"]
                     if b.get("aggregate_name") == "median" and not b.get("error_occurred")}

    def ms(self, name):
        return self.rows[name]["real_time"] if name in self.rows else None

    def machine(self):
        c = self.context
        return (f"{c['machine/processor']}, {c['date'][:10]}, one thread: {c['machine/read_memory_GBps/threads:1']} GB/s, "
                f"{c['machine/fma_f32_GFLOPs/threads:1']} GFLOP/s f32")


def decode(dtype, G, ctx):
    return f"decode/{dtype}/H:32/G:{G}/D:128/ctx:{ctx}/threads:1"


def cache_size(folder, tokens=32768):
    figure, axes = plt.subplots(figsize=(8, 4))
    bars = [("MHA", lambda L, H, G, D, own: 2 * L * H * D), ("as the model is", lambda L, H, G, D, own: L * (own or 2 * G * D)),
            ("MQA", lambda L, H, G, D, own: 2 * L * D)]
    for i, (label, elements) in enumerate(bars):
        sizes = [2 * tokens * elements(*m[1:]) / 1e9 for m in MODELS]
        drawn = axes.bar([x + (i - 1) * 0.27 for x in range(len(MODELS))], sizes, 0.25, label=label)
        axes.bar_label(drawn, [f"{s:.2g}" if s < 1 else f"{s:.3g}" for s in sizes], fontsize=7, padding=1, color=INK)
    kind = lambda m: "MLA" if m[5] else "MHA" if m[2] == m[3] else "MQA" if m[3] == 1 else f"GQA {m[2]}/{m[3]}"
    axes.set(yscale="log", ylabel="GB", title=f"KV cache of one sequence of {tokens:,} tokens, 16 bits an element")
    axes.set_xticks(range(len(MODELS)), [f"{m[0]}\n{kind(m)}" for m in MODELS], fontsize=8)
    axes.grid(axis="x", visible=False)
    axes.legend(ncols=3)
    save(figure, folder, "cache_size.svg")


def decode_by_group(report, folder, ctx=8192):
    figure, axes = plt.subplots(figsize=(6.5, 4))
    for i, dtype in enumerate(("f32", "bf16")):
        points = [(G, report.rows[decode(dtype, G, ctx)]) for G in (1, 2, 4, 8, 16, 32) if decode(dtype, G, ctx) in report.rows]
        if not points:
            continue
        groups = [G for G, _ in points]
        axes.plot(groups, [row["real_time"] for _, row in points], "o-", color=COLOURS[i], label=dtype)
        axes.plot(groups, [row["floor_ms"] for _, row in points], "--", color=COLOURS[i], alpha=0.7,
                  label=f"{dtype}, the machine's limit")
    axes.set(xscale="log", yscale="log", xlabel="KV heads G (H = 32)", ylabel="ms", title=f"Decoding one token, context {ctx:,}, D 128")
    axes.set_xticks([1, 2, 4, 8, 16, 32], ["1\nMQA", "2", "4", "8\nGQA", "16", "32\nMHA"])
    axes.minorticks_off()
    axes.legend()
    figure.supxlabel(report.machine(), fontsize=7)
    save(figure, folder, "decode_by_group.svg")


def decode_by_context(report, folder, dtype="f32"):
    figure, axes = plt.subplots(figsize=(6.5, 4))
    contexts = [4096, 8192, 16384, 32768, 65536, 131072, 262144]
    for i, (G, label) in enumerate(((32, "MHA (G 32)"), (8, "GQA (G 8)"), (1, "MQA (G 1)"))):
        points = [(n, report.rows[decode(dtype, G, n)]) for n in contexts if decode(dtype, G, n) in report.rows]
        axes.plot([n for n, _ in points], [row["real_time"] for _, row in points], "o-", color=COLOURS[i], label=label)
        axes.plot([n for n, _ in points], [row["floor_ms"] for _, row in points], "--", color=COLOURS[i], alpha=0.7)
    axes.plot([], [], "--", color=FAINT, label="the machine's limit")
    axes.set(xscale="log", yscale="log", xlabel="tokens in the cache", ylabel="ms", title=f"Decoding one token, {dtype}, H 32, D 128")
    axes.set_xticks(contexts, [f"{n // 1024}k" for n in contexts])
    axes.minorticks_off()
    axes.legend()
    figure.supxlabel(report.machine(), fontsize=7)
    save(figure, folder, "decode_by_context.svg")


def limit_by_case(report, peers, folder):
    """Ours from the peers' run where it has us: that is the run in which all took turns."""
    cases = [f"{kind}/{dtype}/H:32/G:8/D:128/{size}/threads:1" for kind, size in (("decode", "ctx:8192"), ("prefill", "S:2048"))
             for dtype in ("f32", "f16", "bf16")]
    cases = [c for c in cases if c in report.rows]
    percent = {"gqa": {c: 100 * report.rows[c]["roofline"] for c in cases}}
    for r in peers:
        if r["case"] in cases:
            percent.setdefault(r["peer"], {})[r["case"]] = 100 * report.rows[r["case"]]["floor_ms"] / r["ms"]
    figure, axes = plt.subplots(figsize=(9, 4.2))
    width = 0.9 / len(percent)
    for i, (who, values) in enumerate(percent.items()):
        at = [x + (i - (len(percent) - 1) / 2) * width for x in range(len(cases))]
        heights = [values.get(c, 0) for c in cases]
        drawn = axes.bar(at, heights, width * 0.92, label=who)
        axes.bar_label(drawn, [f"{h:.0f}" if h else "" for h in heights], fontsize=6, color=INK)
    axes.axhline(100, color=FAINT, linestyle="--", linewidth=1)
    axes.set(ylabel="% of the limit (vector units, memory)", title="How near to the machine's limit: H 32, G 8, D 128, one thread")
    words = lambda c: c.split("/")[0] + " " + c.split("/")[1] + "\n" + c.split("/")[5].replace("ctx:", "context ").replace("S:", "tokens ")
    axes.set_xticks(range(len(cases)), [words(c) for c in cases], fontsize=8)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(top=1.2 * max(100, axes.get_ylim()[1]))
    axes.legend(ncols=4, fontsize=7, loc="upper left")
    figure.supxlabel(report.machine(), fontsize=7)
    save(figure, folder, "limit_by_case.svg")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", help="from benchmarks/run")
    parser.add_argument("--peers", help="from benchmarks/peers/run.py")
    parser.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "results"))
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    style()
    report = Report(options.report)
    peers = json.load(open(options.peers))["peers"] if options.peers else []
    cache_size(options.out)
    decode_by_group(report, options.out)
    decode_by_context(report, options.out)
    limit_by_case(report, peers, options.out)


if __name__ == "__main__":
    main()
