# SPDX-License-Identifier: Apache-2.0
"""PyTorch: scaled_dot_product_attention as documented for GQA, with the group folded into the query axis, and by hand."""
import math

import numpy as np
import torch
import torch.nn.functional as F

VERSION = f"PyTorch {torch.__version__.split('+')[0]}"


def tensor(array):
    bits = array.view(np.int16) if array.dtype.name == "bfloat16" else array
    t = torch.from_numpy(bits)
    return (t.view(torch.bfloat16) if array.dtype.name == "bfloat16" else t).unsqueeze(0)


class Torch:
    def __init__(self, case, inputs):
        torch.set_num_threads(case.threads)
        self.case = case
        self.q = tensor(inputs.q)
        self.k = [tensor(x) for x in inputs.k]
        self.v = [tensor(x) for x in inputs.v]
        self.out = None

    def step(self, i):
        torch.set_num_threads(self.case.threads)
        with torch.inference_mode():
            self.out = self.attend(self.q, self.k[i % len(self.k)], self.v[i % len(self.v)])

    def output(self):
        return self.out.reshape(self.case.H, self.case.queries, self.case.D).float().numpy()


class Sdpa(Torch):
    """What the documentation says: enable_gqa."""

    name = "torch sdpa"

    @staticmethod
    def supports(case):
        return case.kind != "backward"

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.case.kind == "prefill", enable_gqa=self.case.H != self.case.G)


class SdpaFolded(Torch):
    """The query heads of a group passed as query positions: one read of k and v for a group. Decode only."""

    name = "torch sdpa, group folded"

    @staticmethod
    def supports(case):
        return case.kind == "decode" and case.H != case.G

    def attend(self, q, k, v):
        c = self.case
        return F.scaled_dot_product_attention(q.view(1, c.G, c.H // c.G, c.D), k, v)


class SdpaBackward(Torch):
    """The gradient alone: the graph of one forward is kept. The queries are the output's gradients too."""

    name = "torch sdpa"

    @staticmethod
    def supports(case):
        return case.kind == "backward"

    def __init__(self, case, inputs):
        super().__init__(case, inputs)
        self.leaves = [x.clone().requires_grad_() for x in (self.q, self.k[0], self.v[0])]
        self.result = self.forward(*self.leaves)

    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.case.H != self.case.G)

    def step(self, _):
        torch.set_num_threads(self.case.threads)
        self.out = torch.autograd.grad(self.result, self.leaves, self.q, retain_graph=True)[0]


class SdpaBackwardRepeated(SdpaBackward):
    """Keys and values repeated for each query head of a group, their gradients summed: the fused kernel takes that."""

    name = "torch sdpa, keys repeated"

    def forward(self, q, k, v):
        group = self.case.H // self.case.G
        return F.scaled_dot_product_attention(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), is_causal=True)


class ByHand(Torch):
    """Grouped matrix products and a softmax. Decode only: in prefill it would hold the whole score matrix."""

    name = "torch by hand"

    @staticmethod
    def supports(case):
        return case.kind == "decode"

    def attend(self, q, k, v):
        c = self.case
        q = q.view(c.G, c.H // c.G, c.D)
        scores = torch.bmm(q, k[0].transpose(1, 2)).mul_(1 / math.sqrt(c.D))
        return torch.bmm(torch.softmax(scores, -1), v[0])


PEERS = [Sdpa, SdpaFolded, ByHand, SdpaBackward, SdpaBackwardRepeated]
