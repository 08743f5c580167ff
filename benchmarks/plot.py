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
    if not any(decode(dtype, G, ctx) in report.rows for dtype in ("f32", "bf16") for G in (1, 8, 32)):
        return
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
    contexts = [4096, 8192, 16384, 32768, 65536, 131072, 262144]
    if not any(decode(dtype, G, n) in report.rows for G in (1, 8, 32) for n in contexts):
        return
    figure, axes = plt.subplots(figsize=(6.5, 4))
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
    if not cases:
        return
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


def sparsity(report, folder):
    full = report.ms("prefill/f32/H:32/G:8/D:128/S:4096/threads:1")
    kinds = (("sliding window", r"window_prefill/f32/H:32/G:8/D:128/W:\d+/S:4096/threads:1"), ("random blocks of 128 x 128", "block_prefill/.*"))
    found = {label: sorted((row["density"], row["real_time"]) for name, row in report.rows.items() if re.fullmatch(pattern, name))
             for label, pattern in kinds}
    if full is None or not any(found.values()):
        return
    figure, axes = plt.subplots(figsize=(6.5, 4))
    for label, points in found.items():
        axes.plot([density for density, _ in points], [ms / full for _, ms in points], "o-", label=label)
    axes.plot([0, 1], [0, 1], "--", color=FAINT, label="ideal: only what is seen takes time")
    axes.set(xlim=(0, 1.05), ylim=(0, None), xlabel="pairs of a query and a key seen, over causal", ylabel="time over causal",
             title="Prefill of 4,096 tokens, f32, H 32, G 8, D 128")
    axes.legend()
    figure.supxlabel(report.machine(), fontsize=7)
    save(figure, folder, "sparsity.svg")


def bars(axes, series, groups, form):
    """`series`: label -> a height for each group, None where there is none."""
    width = 0.85 / len(series)
    for i, (label, heights) in enumerate(series.items()):
        at = [x + (i - (len(series) - 1) / 2) * width for x in range(len(groups))]
        drawn = axes.bar(at, [h or 0 for h in heights], width * 0.94, label=label)
        axes.bar_label(drawn, [form(h) if h else "" for h in heights], fontsize=6, color=INK)
    axes.set_xticks(range(len(groups)), groups, fontsize=8)
    axes.grid(axis="x", visible=False)


def scores(report, folder):
    kinds = ["sink_logits", "temperature", "alibi", "relative_bias", "soft_cap", "tensor_bias", "tensor_bias_by_head", "function"]
    cases = (("prefill 2,048, D 128", "score_prefill/{}/f32/H:32/G:8/D:128/S:2048/threads:1"),
             ("prefill 2,048, D 64", "score_prefill/{}/f32/H:32/G:8/D:64/S:2048/threads:1"),
             ("decode, context 8,192, D 128", "score_decode/{}/f32/H:32/G:8/D:128/ctx:8192/threads:1"))
    series = {}
    for label, name in cases:
        plain, times = report.ms(name.format("plain")), [report.ms(name.format(kind)) for kind in kinds]
        if plain and any(times):
            series[label] = [ms and ms / plain for ms in times]
    if not series:
        return
    figure, axes = plt.subplots(figsize=(9, 4))
    bars(axes, series, [kind.replace("_", " ").replace("bias by", "bias\nby") for kind in kinds], "{:.2f}".format)
    axes.axhline(1, color=FAINT, linestyle="--", linewidth=1)
    axes.set(ylabel="time over none", title="What score functions cost: f32, H 32, G 8, one thread")
    axes.set_ylim(top=1.15 * axes.get_ylim()[1])
    axes.legend(ncols=3, fontsize=8, loc="upper left")
    figure.supxlabel(report.machine(), fontsize=7)
    save(figure, folder, "scores.svg")


def batches(report, folder):
    cases = (("16 prompts of 64 to 1,024 tokens", "ragged_prefill", "B:16/S:1024", ("padded", "one_by_one", "ragged")),
             ("14 decode, 2 prefill 512 tokens", "mixed_step", "B:16/S:512/ctx:8192", ("one_by_one", "ragged")),
             ("16 decode on a prefix of 4,096", "prefix_decode", "B:16/ctx:4160", ("own_caches", "shared_cache", "cascade")))
    groups = [(dtype, threads) for dtype in ("f32", "bf16") for threads in (1, 2)]
    drawn = []
    for title, kind, size, ways in cases:
        series = {way.replace("_", " "): [report.ms(f"{kind}/{way}/{dtype}/H:32/G:8/D:128/{size}/threads:{threads}")
                                          for dtype, threads in groups] for way in ways}
        if any(ms for times in series.values() for ms in times):
            drawn.append((title, series))
    if not drawn:
        return
    figure, panels = plt.subplots(1, len(drawn), figsize=(3.6 * len(drawn), 4), squeeze=False)
    for axes, (title, series) in zip(panels[0], drawn):
        bars(axes, series, [f"{dtype}\n{threads} thread{'s' if threads > 1 else ''}" for dtype, threads in groups], lambda ms: f"{ms:.0f}" if ms >= 10 else f"{ms:.1f}")
        axes.set_title(title, fontsize=9)
        axes.set_ylim(top=1.2 * axes.get_ylim()[1])
        axes.legend(fontsize=7)
    panels[0][0].set_ylabel("ms (H 32, G 8, D 128)")
    figure.supxlabel(report.machine(), fontsize=7)
    save(figure, folder, "batches.svg")


def caches(report, folder):
    """Decode time by cache over contiguous; how many sequences fit."""
    kinds = [("pages\nof 64", "paged", "of_contiguous"), ("pages\nof 128", "paged", "pages_128"), ("pages\nof 256", "paged", "pages_256"),
             ("ring", "ring", "of_contiguous"), ("hybrid", "hybrid", "of_contiguous"), ("batch", "batch", "of_contiguous")]
    sizes = {"paged": ("ctx:{0}", 1), "ring": ("W:{1}/ctx:{0}", 2), "hybrid": ("W:{1}/ctx:{0}", 8), "batch": ("B:8/ctx:{1}", 8)}

    def ratio(member, counter, dtype, tokens):
        size, part = sizes[member]
        name = f"member_decode/{member}/{dtype}/H:32/G:8/D:128/{size.format(tokens, tokens // part)}/threads:1"
        return report.rows.get(name, {}).get(counter)

    series = {f"{dtype}, {where}": [ratio(member, counter, dtype, tokens) for _, member, counter in kinds]
              for where, tokens in (("8,192 tokens, from memory", 8192), ("1,024 tokens, in cache", 1024)) for dtype in ("f32", "bf16")}
    fit = {label: [report.rows.get(f"sequences_in_1_GiB/bf16/L:32/H:32/G:{G}/D:128/ctx:2048/threads:1", {}).get(counter) for G in (32, 8, 1)]
           for label, counter in (("2,048 tokens each", "paged"), ("1 to 2,048 tokens, contiguous", "contiguous_mixed"),
                                  ("1 to 2,048 tokens, pages of 64", "paged_mixed"))}
    if not any(h for heights in [*series.values(), *fit.values()] for h in heights):
        return
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), width_ratios=(2, 1))
    bars(left, series, [label for label, _, _ in kinds], "{:.2f}".format)
    left.axhline(1, color=FAINT, linestyle="--", linewidth=1)
    left.set(ylabel="time over contiguous", title="Decoding one token: H 32, G 8, D 128, one thread")
    left.set_ylim(top=1.25 * left.get_ylim()[1])
    left.legend(ncols=2, fontsize=8, loc="upper left")
    bars(right, fit, ["MHA\n(G 32)", "GQA\n(G 8)", "MQA\n(G 1)"], lambda n: f"{n:.0f}" if n == round(n) else f"{n:.1f}")
    right.set(yscale="log", ylabel="sequences", title="In 1 GiB: 32 layers, H 32, D 128, bf16")
    right.set_ylim(top=4 * right.get_ylim()[1])
    right.legend(fontsize=8, loc="upper left")
    figure.supxlabel(report.machine(), fontsize=7)
    save(figure, folder, "caches.svg")


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
    sparsity(report, options.out)
    scores(report, options.out)
    batches(report, options.out)
    caches(report, options.out)


if __name__ == "__main__":
    main()
