# SPDX-License-Identifier: Apache-2.0
"""OpenVINO: the fused, stateful attention its language models use (decode), and plain ScaledDotProductAttention (prefill)."""
import ml_dtypes
import numpy as np
import openvino as ov
from openvino import opset6
from openvino import opset13 as op
from openvino.op import util

VERSION = f"OpenVINO {ov.__version__.split('-')[0]}"
TYPE = {"f32": ov.Type.f32, "f16": ov.Type.f16, "bf16": ov.Type.bf16}


def compiled(model, case):
    t = TYPE[case.dtype]
    return ov.Core().compile_model(model, "CPU", {
        "INFERENCE_NUM_THREADS": case.threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": t, "KV_CACHE_PRECISION": t})


def repeated(x, case):
    """The graph pattern that stands for `repeat_kv` in exported models; the plug-in fuses it."""
    if case.H == case.G:
        return x
    ones = op.constant(np.ones((1, 1, case.H // case.G, 1, 1), np.float32))
    return op.reshape(op.multiply(op.unsqueeze(x, op.constant(2, dtype=np.int32)), ones),
                      op.constant([0, case.H, -1, case.D], dtype=np.int64), True)


class Stateful:
    """A model of one attention per layer whose keys and values are its state, in the case's dtype.

    One inference appends one token and walks through all layers: `step` advances one layer at a time by running
    the whole model once per `layers` steps.
    """

    name = "openvino stateful"

    @staticmethod
    def supports(case):
        return case.kind == "decode"

    def __init__(self, case, inputs):
        self.case, self.layers = case, inputs.layers
        f32, (H, G, D) = ov.Type.f32, (case.H, case.G, case.D)
        q = op.parameter([1, H, -1, D], f32)
        new = {"k": op.parameter([1, G, -1, D], f32), "v": op.parameter([1, G, -1, D], f32)}
        beam = op.parameter([-1], ov.Type.i32)
        results, sinks = [], []
        for layer in range(inputs.layers):
            caches = []
            for name, x in new.items():
                info = util.VariableInfo()
                info.data_shape, info.data_type, info.variable_id = ov.PartialShape([-1, G, -1, D]), f32, f"{name}{layer}"
                variable = util.Variable(info)
                past = opset6.read_value(op.constant(np.zeros((1, G, 0, D), np.float32)), variable)
                all_ = op.concat([op.gather(past, beam, op.constant(0, dtype=np.int32)), x], 2)
                sinks.append(opset6.assign(all_, variable))
                caches.append(repeated(all_, case))
            results.append(op.result(op.scaled_dot_product_attention(q, *caches, causal=False)))
        self.request = compiled(ov.Model(results, sinks, [q, new["k"], new["v"], beam]), case).create_infer_request()
        f = lambda x: np.ascontiguousarray(x[None].astype(np.float32))
        last = lambda x: f(x[:, -1:])
        self.keep = [f(inputs.q), last(inputs.k[0]), last(inputs.v[0]), np.zeros(1, np.int32)]
        for i, x in enumerate(self.keep):
            self.request.set_input_tensor(i, ov.Tensor(x, shared_memory=True))
        for s in self.request.query_state():
            x = (inputs.k if s.name[0] == "k" else inputs.v)[int(s.name[1:])]
            s.state = ov.Tensor(f(x[:, :-1]))
        self.first, self.out = True, None

    def step(self, i):
        if i % self.layers == 0:
            self.request.infer()
        if self.first:  # later calls append tokens beyond the case's context (a few thousandths of it)
            self.first, self.out = False, self.request.get_output_tensor(0).data[0].copy()

    def output(self):
        return self.out


class Sdpa:
    name = "openvino sdpa"

    @staticmethod
    def supports(case):
        return case.kind == "prefill"

    def __init__(self, case, inputs):
        self.dtype, t = case.dtype, TYPE[case.dtype]
        q = op.parameter([1, case.H, case.queries, case.D], t)
        k, v = (op.parameter([1, case.G, case.tokens, case.D], t) for _ in range(2))

        def expand(x):
            if case.H == case.G:
                return x
            shape = [1, case.G, case.H // case.G, case.tokens, case.D]
            x = op.broadcast(op.unsqueeze(x, op.constant(2, dtype=np.int32)), op.constant(shape, dtype=np.int64))
            return op.reshape(x, op.constant([1, case.H, case.tokens, case.D], dtype=np.int64), False)

        model = ov.Model([op.result(op.scaled_dot_product_attention(q, expand(k), expand(v), causal=True))], [q, k, v])
        self.request = compiled(model, case).create_infer_request()
        self.keep = [inputs.q[None], inputs.k[0][None], inputs.v[0][None]]
        for i, x in enumerate(self.keep):
            bits = x.dtype.name == "bfloat16"
            self.request.set_input_tensor(i, ov.Tensor(x.view(np.uint16), x.shape, t) if bits else ov.Tensor(x, shared_memory=True))

    def step(self, _):
        self.request.infer()

    def output(self):
        out = self.request.get_output_tensor(0).data[0]
        if self.dtype == "bf16":  # numpy has no such type: the bits come under another 16-bit one's name
            out = out.view(ml_dtypes.bfloat16)
        return out.astype(np.float32)


PEERS = [Stateful, Sdpa]
