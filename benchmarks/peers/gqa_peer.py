# SPDX-License-Identifier: Apache-2.0
"""This library, through `gqa_bench --serve`, on the very bytes the peers get."""
import os
import subprocess
import tempfile

import numpy as np


class Gqa:
    name = "gqa"
    program = None  # set by run.py

    def __init__(self, case, inputs):
        self.case = case
        self.folder = tempfile.TemporaryDirectory(prefix="gqa-peers-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        files = []
        for name, x in (("q", inputs.q), ("k", inputs.k[0]), ("v", inputs.v[0])):
            files.append(os.path.join(self.folder.name, name))
            np.ascontiguousarray(x.transpose(1, 0, 2)).view(np.uint8).tofile(files[-1])
        self.process = subprocess.Popen([self.program, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask("case", case, inputs.layers, *files)
        for file in files:
            os.remove(file)

    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            raise RuntimeError(f"gqa_bench --serve: {words[0]}: {answer or 'no answer'}")
        return answer

    def step(self, _):
        self.ask("run", 1)

    def measure(self, calls):
        """Seconds a call, timed inside the process."""
        return float(self.ask("run", calls)) * 1e-3

    def output(self):
        c, file = self.case, os.path.join(self.folder.name, "out")
        self.ask("output", file)
        return np.fromfile(file, np.float32).reshape(c.queries, c.H, c.D).transpose(1, 0, 2)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


PEERS = [Gqa]
