#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the figures of a run come to, each beside its target: Markdown, for a report or the README.

    benchmarks/summary.py gqa_bench.json --peers peers.json
"""
import argparse
import json
import math
import re


def row(kind, dtype, size, H=32, G=8, D=128, threads=1):
    return f"{kind}/{dtype}/H:{H}/G:{G}/D:{D}/{size}/threads:{threads}"


class Summary:
    def __init__(self, report, peers):
        self.rows = {b["run_name"]: b for b in report["benchmarks"]
                     if b.get("aggregate_name") == "median" and not b.get("error_occurred")}
        self.peers = {}
        for r in peers:
            self.peers.setdefault(r["case"], {})[r["peer"]] = r["ms"]
        self.lines = ["| case | target | measured | |", "| --- | --- | --- | --- |"]

    def ms(self, name):
        return self.rows[name]["real_time"]

    def add(self, what, target, value, met):
        self.lines.append(f"| {what} | {target} | {value} | {'' if met is None else 'met' if met else 'missed'} |")

    def roofline(self, what, target, names):
        names = [n for n in names if n in self.rows]
        if names:
            shares = [self.rows[n]["roofline"] for n in names]
            best = ", ".join(f"{self.rows[n]['roofline_at_best']:.2f}" for n in names)
            self.add(what, f"roofline >= {target:.2f}", ", ".join(f"{s:.2f}" for s in shares) + f" (at best {best})", min(shares) >= target)

    def ratio(self, what, above, below, target, at_most=False):
        pairs = [(self.ms(a), self.ms(b)) for a, b in zip(above, below) if a in self.rows and b in self.rows]
        if pairs:
            ratios = [a / b for a, b in pairs]
            met = max(ratios) <= target if at_most else min(ratios) >= target
            self.add(what, f"{'<=' if at_most else '>='} {target:.2f}", ", ".join(f"{r:.2f}" for r in ratios), met)

    def show(self, what, above, below):
        """A ratio that no target is set for."""
        pairs = [(self.ms(a), self.ms(b)) for a, b in zip(above, below) if a in self.rows and b in self.rows]
        if pairs:
            self.add(what, "", ", ".join(f"{a / b:.2f}" for a, b in pairs), None)

    def over_peer(self, name, target, peer=None):
        """Their time over ours: of one peer, or of the fastest."""
        times = self.peers.get(name, {})
        others = {p: t for p, t in times.items() if p != "gqa" and (peer is None or p == peer)}
        if "gqa" in times and others:
            fastest = min(others, key=others.get)
            value = others[fastest] / times["gqa"]
            self.add(f"{name} against {fastest}", f">= {target:.2f} x", f"{value:.2f} x", value >= target)

    def slope(self, name, contexts, target):
        """The least-squares slope of log time over log context."""
        points = [(n, self.ms(name(n))) for n in contexts if name(n) in self.rows]
        if len(points) > 2:
            mean_x = sum(math.log(n) for n, _ in points) / len(points)
            mean_y = sum(math.log(t) for _, t in points) / len(points)
            value = (sum((math.log(n) - mean_x) * (math.log(t) - mean_y) for n, t in points)
                     / sum((math.log(n) - mean_x) ** 2 for n, _ in points))
            span = f"{points[0][0] // 1024}k to {points[-1][0] // 1024}k"
            self.add(f"slope of log time over log context, {name(points[0][0]).split('/')[1]}, {span}", f"<= {target}", f"{value:.3f}", value <= target)


def summarise(s):
    for threads in (1, 2):
        for dtype, target in (("f32", 0.95), ("f16", 0.90), ("bf16", 0.90)):
            s.roofline(f"decode {dtype}, {threads} thread(s): G 8 and 32 at 8,192, G 8 and 32 at 32,768", target,
                       [row("decode", dtype, f"ctx:{n}", G=G, threads=threads) for n in (8192, 32768) for G in (8, 32)])
        for dtype in ("f32", "f16", "bf16"):
            s.roofline(f"decode {dtype}, {threads} thread(s), many heads a group: 32/1, 71/1, 64/4", 0.85,
                       [row("decode", dtype, "ctx:8192", H=H, G=G, D=D, threads=threads)
                        for H, G, D in ((32, 1, 128), (71, 1, 64), (64, 4, 128))])
        s.roofline(f"prefill f32, {threads} thread(s), 2,048 and 4,096", 0.88, [row("prefill", "f32", f"S:{n}", threads=threads) for n in (2048, 4096)])
        s.roofline(f"prefill f32, {threads} thread(s), 512", 0.80, [row("prefill", "f32", "S:512", threads=threads)])
        s.roofline(f"prefill bf16, {threads} thread(s), 2,048", 0.80, [row("prefill", "bf16", "S:2048", threads=threads)])
        s.roofline(f"prefill bf16, {threads} thread(s), 512", 0.70, [row("prefill", "bf16", "S:512", threads=threads)])
    flops = lambda D: s.rows.get(row("prefill", "f32", "S:2048", D=D), {}).get("roofline")
    if flops(64) and flops(128) and flops(256):
        shares = [flops(64) / flops(128), flops(256) / flops(128)]
        s.add("prefill f32, roofline of D 64 and 256 over D 128", ">= 0.95", ", ".join(f"{x:.2f}" for x in shares), min(shares) >= 0.95)
    s.ratio("prefill f16 over f32, 512, 2,048, 4,096", [row("prefill", "f16", f"S:{n}") for n in (512, 2048, 4096)],
            [row("prefill", "f32", f"S:{n}") for n in (512, 2048, 4096)], 1.1, at_most=True)
    for dtype in ("f32", "f16", "bf16"):
        s.ratio(f"decode {dtype}, time of G 8 over G 32, 8,192 and 32,768", [row("decode", dtype, f"ctx:{n}") for n in (8192, 32768)],
                [row("decode", dtype, f"ctx:{n}", G=32) for n in (8192, 32768)], 0.30, at_most=True)
    for dtype in ("f32", "bf16"):
        s.slope(lambda n, dtype=dtype: row("decode", dtype, f"ctx:{n}"), [2**k for k in range(12, 19)], 1.02)
    windowed = [n for n in (row("window_decode", "bf16", f"W:1024/ctx:{n}") for n in (4096, 32768, 262144)) if n in s.rows]
    if len(windowed) > 1:
        times = [s.ms(n) for n in windowed]
        s.add("windowed decode, W 1,024, slowest over fastest context, 4k to 256k", "<= 1.05", f"{max(times) / min(times):.2f}", max(times) <= 1.05 * min(times))
    s.ratio("prefill, one thread over two: f32, f16, bf16 at 2,048", [row("prefill", d, "S:2048") for d in ("f32", "f16", "bf16")],
            [row("prefill", d, "S:2048", threads=2) for d in ("f32", "f16", "bf16")], 1.9)
    for dtype in ("f32", "f16", "bf16"):
        short = (128, 256, 512, 1024)
        s.ratio(f"decode {dtype}, one thread over two, 128 to 1,024", [row("decode", dtype, f"ctx:{n}") for n in short],
                [row("decode", dtype, f"ctx:{n}", threads=2) for n in short], 1.0)
    masks_and_scores(s)
    batches(s)
    caches(s)
    plans(s)
    decode, prefill = (lambda d: row("decode", d, "ctx:8192")), (lambda d: row("prefill", d, "S:2048"))
    for name, target, peer in ((decode("f32"), 3, "torch by hand"), (decode("f32"), 3, "onnxruntime gqa"), (decode("f32"), 8, "torch sdpa"),
                               (decode("bf16"), 40, "torch sdpa"), (decode("f16"), 8, "onnxruntime gqa"),
                               (prefill("f32"), 1.4, "onnxruntime gqa"), (prefill("bf16"), 2.2, "openvino sdpa")):
        s.over_peer(name, target, peer)
    for name in s.peers:
        s.over_peer(name, 3 if "/ctx:512/" in name else 1)


def masks_and_scores(s):
    full = row("prefill", "f32", "S:4096")
    for what, name in (("window", r"window_prefill/f32/H:32/G:8/D:128/W:\d+/S:4096/threads:1"), ("block-sparse", r"block_prefill/.*/threads:1")):
        rows = sorted((r for n, r in s.rows.items() if re.fullmatch(name, n)), key=lambda r: r["density"])
        at = ", ".join(f"{r['density']:.2f}" for r in rows)
        s.show(f"{what} prefill f32, 4,096, time over full causal at density {at}", [r["run_name"] for r in rows], [full] * len(rows))
    score = lambda what, D: row(f"score_prefill/{what}", "f32", "S:2048", D=D)
    for what in ("alibi", "soft_cap"):
        s.ratio(f"prefill f32, 2,048, {what} over plain, D 128 and 64", [score(what, D) for D in (128, 64)],
                [score("plain", D) for D in (128, 64)], 1.15, at_most=True)
    for what in ("temperature", "sink_logits", "relative_bias", "tensor_bias", "tensor_bias_by_head", "function"):
        s.show(f"prefill f32, 2,048, {what} over plain, D 128 and 64", [score(what, D) for D in (128, 64)], [score("plain", D) for D in (128, 64)])
    scored = lambda what: row(f"score_decode/{what}", "f32", "ctx:8192")
    s.show("decode f32, 8,192, alibi and soft_cap over plain", [scored("alibi"), scored("soft_cap")], [scored("plain")] * 2)


def batches(s):
    for dtype in ("f32", "bf16"):
        each = lambda kind, size: [row(kind, dtype, size, threads=threads) for threads in (1, 2)]
        for other in ("own_caches", "shared_cache"):
            s.ratio(f"decode {dtype}, 16 sequences on a prefix of 4,096, {other} over cascade, 1 and 2 threads",
                    each(f"prefix_decode/{other}", "B:16/ctx:4160"), each("prefix_decode/cascade", "B:16/ctx:4160"), 4)
        for other in ("padded", "one_by_one"):
            s.show(f"prefill {dtype}, 16 prompts of 64 to 1,024, {other} over ragged, 1 and 2 threads",
                   each(f"ragged_prefill/{other}", "B:16/S:1024"), each("ragged_prefill/ragged", "B:16/S:1024"))
        s.show(f"a server's step {dtype}, one_by_one over ragged, 1 and 2 threads",
               each("mixed_step/one_by_one", "B:16/S:512/ctx:8192"), each("mixed_step/ragged", "B:16/S:512/ctx:8192"))


def caches(s):
    """Decode time of each cache over contiguous, by turns in one run."""
    of = lambda member, dtype, size: s.rows.get(row(f"member_decode/{member}", dtype, size), {})
    for where, tokens in (("8,192 from memory", 8192), ("1,024 in cache", 1024)):
        sizes = [("paged", f"ctx:{tokens}", "pages of 64", "of_contiguous"), ("paged", f"ctx:{tokens}", "pages of 256", "pages_256"),
                 ("ring", f"W:{tokens // 2}/ctx:{tokens}", "ring", "of_contiguous"),
                 ("hybrid", f"W:{tokens // 8}/ctx:{tokens}", "hybrid", "of_contiguous"),
                 ("batch", f"B:8/ctx:{tokens // 8}", "batch", "of_contiguous")]
        for member, size, what, counter in sizes:
            ratios = [r[counter] for dtype in ("f32", "f16", "bf16") if counter in (r := of(member, dtype, size))]
            if ratios:
                s.add(f"decode over {what}, {where}, time over contiguous: f32, f16, bf16", "<= 1.05", ", ".join(f"{r:.2f}" for r in ratios),
                      max(ratios) <= 1.05)


def plans(s):
    """What the planners say, against what is."""
    for threads in (1, 2):
        of = [r["of_measured"] for n, r in s.rows.items() if n.startswith("cost/") and n.endswith(f"threads:{threads}") and "of_measured" in r]
        if of:
            near = sum(abs(x - 1) <= 0.15 for x in of)
            s.add(f"predicted time of {len(of)} held cases, {threads} thread(s), within 15 %", "all", f"{near} ({min(of):.2f} to {max(of):.2f})",
                  near == len(of))
    of = [r["of_default"] for n, r in s.rows.items() if n.startswith("tune/") and "of_default" in r]
    if of:
        s.add("time as tuned over the default's", "<= 1.05", f"{min(of):.2f} to {max(of):.2f}", max(of) <= 1.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", help="from benchmarks/run")
    parser.add_argument("--peers", help="from benchmarks/peers/run.py")
    options = parser.parse_args()
    report = json.load(open(options.report))
    summary = Summary(report, json.load(open(options.peers))["peers"] if options.peers else [])
    summarise(summary)
    context = report["context"]
    print(f"{context['machine/processor']}, {context['date'][:10]}, gqa {context['gqa/version']} ({context['gqa/isa']})")
    for key in sorted(k for k in context if "GBps" in k or "FLOPs" in k):
        print(f"- {key.removeprefix('machine/')}: {context[key]}")
    print("\n" + "\n".join(summary.lines))


if __name__ == "__main__":
    main()
