# SPDX-License-Identifier: Apache-2.0
"""One benchmark case, spelled the way gqa_bench spells its rows, its inputs and its expected output."""
import re
from dataclasses import dataclass

import ml_dtypes
import numpy as np

DTYPES = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
UNIT_ROUNDOFF = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}


@dataclass(frozen=True)
class Case:
    kind: str  # decode | prefill | backward
    dtype: str
    H: int
    G: int
    D: int
    tokens: int  # context of a decode, length of a prefill
    threads: int

    PATTERN = re.compile(r"(decode|prefill|backward)/(f32|f16|bf16)/H:(\d+)/G:(\d+)/D:(\d+)/(?:ctx|S):(\d+)/threads:(\d+)$")

    @classmethod
    def parse(cls, name):
        m = cls.PATTERN.match(name)
        if not m:
            raise SystemExit(f"not a case: {name!r} (want for instance decode/f32/H:32/G:8/D:128/ctx:8192/threads:1)")
        return cls(m[1], m[2], *map(int, m.groups()[2:]))

    def __str__(self):
        length = "ctx" if self.kind == "decode" else "S"
        return f"{self.kind}/{self.dtype}/H:{self.H}/G:{self.G}/D:{self.D}/{length}:{self.tokens}/threads:{self.threads}"

    @property
    def queries(self):
        return 1 if self.kind == "decode" else self.tokens

    @property
    def kv_bytes(self):
        return 2 * self.tokens * self.G * self.D * DTYPES[self.dtype].itemsize


class Inputs:
    """q, k, v with heads before tokens (the layout every peer prefers), in the dtype, and `layers` copies of k and v.

    A real model walks through its layers: each call finds its keys and values in memory, not in the last cache. So a
    decode cycles through enough copies that together they exceed `footprint` bytes; contexts under 4,096 tokens are
    meant to be in cache and have one.
    """

    def __init__(self, case, footprint, seed=1):
        rng = np.random.default_rng(seed)
        draw = lambda heads, n: rng.standard_normal((heads, n, case.D), dtype=np.float32).astype(DTYPES[case.dtype])
        self.q = draw(case.H, case.queries)
        k, v = draw(case.G, case.tokens), draw(case.G, case.tokens)
        cycled = case.kind == "decode" and case.tokens >= 4096
        self.layers = max(1, -(-footprint // case.kv_bytes)) if cycled else 1
        self.k = [k] + [k.copy() for _ in range(self.layers - 1)]
        self.v = [v] + [v.copy() for _ in range(self.layers - 1)]


class Oracle:
    """Some rows of the output in double. Causal; the last query sees the last key. Of a backward, whose queries are its
    output's gradients too, the output is dq."""

    def __init__(self, case, inputs, rows_wanted=8):
        n, group = case.queries, case.H // case.G
        self.rows = np.unique(np.linspace(0, n - 1, min(n, rows_wanted)).astype(int))
        self.out = np.empty((case.H, len(self.rows), case.D))
        self.bound = np.empty_like(self.out)
        u = UNIT_ROUNDOFF[case.dtype]
        for g in range(case.G):
            k, v = inputs.k[0][g].astype(np.float64), inputs.v[0][g].astype(np.float64)
            for h in range(g * group, (g + 1) * group):
                for i, row in enumerate(self.rows):
                    last = case.tokens - n + row + 1
                    s = k[:last] @ inputs.q[h, row].astype(np.float64) / np.sqrt(case.D)
                    p = np.exp(s - s.max())
                    p /= p.sum()
                    if case.kind == "backward":
                        dp = v[:last] @ inputs.q[h, row].astype(np.float64)
                        ds = p * (dp - p @ dp) / np.sqrt(case.D)
                        self.out[h, i] = ds @ k[:last]
                        self.bound[h, i] = 64 * np.sqrt(case.D) * u * (abs(ds) + p / np.sqrt(case.D)) @ abs(k[:last])
                        continue
                    self.out[h, i] = p @ v[:last]
                    # As in verify.hpp, but scores may be rounded to the dtype as well, which some peers do.
                    parts = p[:, None] * v[:last]
                    self.bound[h, i] = (16 * u * np.sqrt((parts**2).sum(0)) + 2 * u * abs(self.out[h, i])
                                        + 8 * np.sqrt(case.D) * 2.0**-24 * abs(parts).sum(0))

    def error(self, output):
        """The largest error as a share of what is tolerated, and in absolute terms."""
        difference = abs(output[:, self.rows] - self.out)
        share = (difference / self.bound).max()
        return (share if np.isfinite(share) else np.inf), difference.max()
