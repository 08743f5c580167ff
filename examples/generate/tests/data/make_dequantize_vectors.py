#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes dequantize.json: random blocks of each type and their values by the gguf package.

  python3 -m venv venv && venv/bin/pip install gguf
  venv/bin/python make_dequantize_vectors.py > dequantize.json
"""
import json

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

BLOCKS = {  # type: bytes of a block, places of its f16 numbers
    Type.Q4_0: (18, [0]),
    Type.Q4_1: (20, [0, 2]),
    Type.Q8_0: (34, [0]),
    Type.Q6_K: (210, [208]),
    Type.Q5_0: (22, [0]),
    Type.Q5_1: (24, [0, 2]),
    Type.Q4_K: (144, [0, 2]),
    Type.Q5_K: (176, [0, 2]),
}

random = np.random.default_rng(1)
vectors = []


def add(kind, raw):
    values = quants.dequantize(raw, kind).astype(np.float32).ravel()
    vectors.append({"type": kind.value, "bytes": raw.tobytes().hex(), "values": [float(v) for v in values]})


for kind, (size, halves) in BLOCKS.items():
    blocks = random.integers(0, 256, (2, size), dtype=np.uint8)
    for place in halves:
        blocks[:, place : place + 2] = random.normal(0, 0.1, (2, 1)).astype(np.float16).view(np.uint8)
    add(kind, blocks)
add(Type.BF16, np.array([0x0000, 0x8000, 0x3FC0, 0xC049, 0x7F7F, 0x0001], dtype=np.uint16).view(np.uint8))
add(Type.F16, np.array([0, 1, -2, 65504, 6e-8, 0.1], dtype=np.float16))
add(Type.F32, np.array([0, 1, -2, 1e38, 1e-40], dtype=np.float32))
lines = ",\n".join(json.dumps(v) for v in vectors)
print("[\n" + lines + "\n]")
