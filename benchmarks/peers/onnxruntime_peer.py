# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's GroupQueryAttention, caches bound in place (past and present share one buffer)."""
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

VERSION = f"ONNX Runtime {ort.__version__}"
ELEMENT = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16}


def model(case):
    t = ELEMENT[case.dtype]
    info = lambda name, shape, kind=t: helper.make_tensor_value_info(name, kind, shape)
    cache = [1, case.G, case.tokens, case.D]
    node = helper.make_node(
        "GroupQueryAttention",
        ["q", "k", "v", "past_k", "past_v", "seqlens_k", "total"],
        ["out", "present_k", "present_v"],
        domain="com.microsoft", num_heads=case.H, kv_num_heads=case.G)
    n = case.queries
    graph = helper.make_graph(
        [node], "gqa",
        [info("q", [1, n, case.H * case.D]), info("k", [1, n, case.G * case.D]), info("v", [1, n, case.G * case.D]),
         info("past_k", cache), info("past_v", cache),
         info("seqlens_k", [1], TensorProto.INT32), info("total", [1], TensorProto.INT32)],
        [info("out", [1, n, case.H * case.D]), info("present_k", cache), info("present_v", cache)])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


class GroupQueryAttention:
    name = "onnxruntime gqa"

    @staticmethod
    def supports(case):
        return case.dtype in ELEMENT

    def __init__(self, case, inputs):
        self.case = case
        options = ort.SessionOptions()
        options.intra_op_num_threads = case.threads
        options.log_severity_level = 3
        self.session = ort.InferenceSession(model(case), options, providers=["CPUExecutionProvider"])
        n = case.queries
        rows = lambda x: np.ascontiguousarray(x[:, x.shape[1] - n:].transpose(1, 0, 2)).reshape(1, n, -1)
        value = ort.OrtValue.ortvalue_from_numpy
        common = {"q": value(rows(inputs.q)), "k": value(rows(inputs.k[0])), "v": value(rows(inputs.v[0])),
                  "seqlens_k": value(np.array([case.tokens - 1], np.int32)),
                  "total": value(np.array([case.tokens], np.int32))}
        self.out = value(np.zeros((1, n, case.H * case.D), inputs.q.dtype))
        self.bindings, self.keep = [], [common]
        for k, v in zip(inputs.k, inputs.v):
            # The operator writes its new rows (the same values) into the cache; a prefill starts from an empty one.
            caches = [value(x[None] if case.kind == "decode" else np.zeros_like(x[None])) for x in (k, v)]
            binding = self.session.io_binding()
            for name, x in common.items():
                binding.bind_ortvalue_input(name, x)
            for name, x in zip(("past_k", "past_v"), caches):
                binding.bind_ortvalue_input(name, x)
            binding.bind_ortvalue_output("out", self.out)
            for name, x in zip(("present_k", "present_v"), caches):
                binding.bind_ortvalue_output(name, x)
            self.bindings.append(binding)
            self.keep.append(caches)

    def step(self, i):
        self.session.run_with_iobinding(self.bindings[i % len(self.bindings)])

    def output(self):
        c = self.case
        return self.out.numpy().reshape(c.queries, c.H, c.D).transpose(1, 0, 2).astype(np.float32)


PEERS = [GroupQueryAttention]
