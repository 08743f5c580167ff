#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times the same attention in every peer that can be imported and in gqa_bench, taking turns, and checks every output.

    python3 benchmarks/peers/run.py --gqa_bench build/bench/benchmarks/gqa_bench --json peers.json
"""
import argparse
import datetime
import fnmatch
import importlib
import json
import os
import platform
import random
import statistics
import sys
import time

import numpy as np

from case import Case, Inputs, Oracle

DEFAULT_CASES = [
    f"{kind}/{dtype}/H:32/G:8/D:128/{length}/threads:{threads}"
    for kind, length in (("decode", "ctx:512"), ("decode", "ctx:8192"), ("decode", "ctx:32768"),
                         ("prefill", "S:512"), ("prefill", "S:2048"))
    for dtype in ("f32", "f16", "bf16")
    for threads in (1, 2)
] + [f"decode/{dtype}/H:32/G:32/D:128/ctx:8192/threads:1" for dtype in ("f32", "f16", "bf16")] + [
    f"backward/f32/H:32/G:8/D:128/S:{n}/threads:{threads}" for n in (512, 2048) for threads in (1, 2)]


def last_cache():
    for level in (3, 2):
        for index in range(8):
            folder = f"/sys/devices/system/cpu/cpu0/cache/index{index}"
            try:
                if int(open(f"{folder}/level").read()) == level:
                    return int(open(f"{folder}/size").read().strip().rstrip("K")) * 1024
            except OSError:
                pass
    return 32 << 20


def load(modules):
    """The classes of every peer whose package is there, gqa first."""
    peers, versions = [], []
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            print(f"skipped: {name}: {error}", file=sys.stderr)
            continue
        peers += module.PEERS
        versions += [module.VERSION] if hasattr(module, "VERSION") else []
    return peers, versions


class Runner:
    """One peer on one case."""

    def __init__(self, peer, case, inputs):
        self.name, self.peer, self.times, self.at = peer.name, peer(case, inputs), [], 0
        self.layers = inputs.layers

    def calls(self, n):
        if hasattr(self.peer, "measure"):
            return self.peer.measure(n)
        start = time.perf_counter()
        for _ in range(n):
            self.peer.step(self.at)
            self.at += 1
        return (time.perf_counter() - start) / n

    def warm_up(self, seconds):
        """Decides how many calls make a turn: about `seconds`, in whole rounds of the layers."""
        once = self.calls(self.layers)
        self.turn = self.layers * max(1, round(seconds / (once * self.layers)))

    def take_turn(self):
        self.times.append(self.calls(self.turn))


def measure(case, peers, rounds, seconds, footprint):
    inputs = Inputs(case, footprint)
    oracle = Oracle(case, inputs)
    runners, results = [], []
    for peer in peers:
        if hasattr(peer, "supports") and not peer.supports(case):
            continue
        try:
            runner = Runner(peer, case, inputs)
            runner.peer.step(0)
            share, error = oracle.error(runner.peer.output())
            runner.at = 1
            results.append({"case": str(case), "peer": peer.name, "error": float(error), "error_share": float(share)})
            if share > 1:
                raise RuntimeError(f"wrong output: off by {error:.3g}, {share:.3g} times what is tolerated")
            runner.warm_up(seconds)
            runners.append((runner, results[-1]))
        except Exception as reason:  # a peer may not know the case; the others go on
            if results and results[-1]["peer"] == peer.name:
                results.pop()
            print(f"skipped: {peer.name} on {case}: {str(reason).splitlines()[0]}", file=sys.stderr)
    for _ in range(rounds):
        for runner, _ in random.sample(runners, len(runners)):
            runner.take_turn()
    for runner, result in runners:
        times = [t * 1e3 for t in runner.times]
        result.update(ms=statistics.median(times), ms_min=min(times), ms_max=max(times), layers=inputs.layers)
        if hasattr(runner.peer, "close"):
            runner.peer.close()
    return results


def table(results):
    """Cases down; the median time, how many times ours it is, and the error for each peer."""
    lines = ["| case | peer | ms | min..max | times ours | error |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for name in dict.fromkeys(r["case"] for r in results):
        rows = sorted((r for r in results if r["case"] == name), key=lambda r: r["ms"])
        ours = next((r["ms"] for r in rows if r["peer"] == "gqa"), None)
        for r in rows:
            ratio = f"{r['ms'] / ours:.2f}" if ours else "-"
            lines.append(f"| {name} | {r['peer']} | {r['ms']:.3f} | {r['ms_min']:.3f}..{r['ms_max']:.3f} | {ratio} | {r['error']:.1e} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="row names of gqa_bench; shell patterns choose from the default ones")
    parser.add_argument("--gqa_bench", help="the program; without it only the peers are timed")
    parser.add_argument("--peers", default="torch,onnxruntime,openvino")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="of one turn")
    parser.add_argument("--json")
    options = parser.parse_args()

    cases = []
    for name in options.cases or DEFAULT_CASES:
        matched = fnmatch.filter(DEFAULT_CASES, name)
        cases += matched or [name]
    cases = [Case.parse(name) for name in dict.fromkeys(cases)]
    peers, versions = load(f"{name}_peer" for name in options.peers.split(",") if name)
    if options.gqa_bench:
        import gqa_peer

        gqa_peer.Gqa.program = os.path.abspath(options.gqa_bench)
        peers = gqa_peer.PEERS + peers
    if not peers:
        raise SystemExit("nothing to measure: no peer can be imported and --gqa_bench is not given")

    results = []
    for case in cases:
        results += measure(case, peers, options.rounds, options.seconds, max(1 << 28, 2 * last_cache()))
        print(f"{case}: " + ", ".join(f"{r['peer']} {r['ms']:.3f}" for r in results if r["case"] == str(case)), file=sys.stderr)
    print(table(results))
    if options.json:
        context = {"date": datetime.datetime.now().isoformat(timespec="seconds"), "machine": platform.processor() or platform.machine(),
                   "host_cpus": os.cpu_count(), "peers": versions, "numpy": np.__version__, "footprint": 2 * last_cache()}
        with open(options.json, "w") as file:
            json.dump({"context": context, "peers": results}, file, indent=1)
            file.write("\n")
    missing = [str(c) for c in cases if not any(r["case"] == str(c) and r["peer"] == "gqa" for r in results)]
    if options.gqa_bench and missing:
        raise SystemExit("gqa has no result for " + ", ".join(missing))


if __name__ == "__main__":
    main()
