#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes quantize.json: blocks of Q8_0 and F16 that the gguf package makes of values.

  python3 -m venv venv && venv/bin/pip install gguf==0.19.0
  venv/bin/python make_quantize_vectors.py > quantize.json
"""

import json

import numpy
from gguf import GGMLQuantizationType, quants


def main():
    random = numpy.random.default_rng(1)
    rows = [random.normal(0, scale, 32) for scale in (1e-4, 0.02, 1, 300)]
    rows.append(numpy.zeros(32))
    rows.append(numpy.arange(32) * 0.5 - 8)  # halves: 127 = 7.9375 x 16
    rows.append(numpy.where(numpy.arange(32) == 7, -127.0, numpy.arange(32) + 0.5))  # scale 1: every value a tie
    rows.append(numpy.full(32, -3.25))
    vectors = []
    for row in rows:
        values = row.astype(numpy.float32)
        for name in ("F16", "Q8_0"):
            kind = GGMLQuantizationType[name]
            blocks = quants.quantize(values.reshape(1, -1), kind)
            vectors.append({"type": int(kind), "values": [float(x) for x in values], "bytes": blocks.tobytes().hex()})
    print("[" + ",\n".join(json.dumps(vector) for vector in vectors) + "]")


if __name__ == "__main__":
    main()
