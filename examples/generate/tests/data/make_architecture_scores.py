#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes architecture_scores.json: what transformers makes of the small models of small_architectures.hpp.

  python3 -m venv venv && venv/bin/pip install torch transformers
  venv/bin/python make_architecture_scores.py > architecture_scores.json

Every weight is computed from the name of its tensor in a GGUF file, here and there. The models are transformers' own,
in f64; how converters change weights on their way into such a file is undone here: the rows of llama's queries and
keys are put back, and the 1 of Gemma's norms is taken off. For each model: its scores after some of its tokens.
"""
import json

import torch
from transformers import (Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

DIM, FFN, VOCABULARY, Q_HEADS, WINDOW = 48, 80, 97, 4, 8
TOKENS = [(7 * i * i + 3 * i + 5) % VOCABULARY for i in range(25)]
ROWS = [0, 7, 8, 24]  # of which the scores are kept


def values(name, *shape):
    """Multiples of 2^-16 or so, drawn by a linear congruential generator that starts with the name's FNV-1a hash."""
    state = 2166136261
    for byte in name.encode():
        state = (state ^ byte) * 16777619 % 2**32
    count = torch.Size(shape).numel()
    numbers = []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        numbers.append((state >> 16) / 2**16 - 0.5)
    x = torch.tensor(numbers, dtype=torch.float64).reshape(shape)
    return x + 1 if name.endswith("norm.weight") else x / 2 if name.endswith("weight") else x


def unpermuted(weight, heads):
    """Rows of a head as halves, where the file has pairs."""
    dim = weight.shape[0] // heads
    return weight.reshape(heads, dim // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def scores(name, make, kv_heads, head_dim, layers, tied, **config):
    llama, gemma = name == "llama", name.startswith("gemma3")
    model = make[1](
        make[0](
            vocab_size=VOCABULARY, hidden_size=DIM, intermediate_size=FFN, num_hidden_layers=layers,
            num_attention_heads=Q_HEADS, num_key_value_heads=kv_heads, head_dim=head_dim,
            max_position_embeddings=200, rms_norm_eps=1e-5, tie_word_embeddings=tied,
            attn_implementation="eager", **config,
        )
    ).double().eval()
    off = 1 if gemma else 0
    state = {"model.embed_tokens.weight": values("token_embd.weight", VOCABULARY, DIM),
             "model.norm.weight": values("output_norm.weight", DIM) - off}
    state["lm_head.weight"] = state["model.embed_tokens.weight"] if tied else values("output.weight", VOCABULARY, DIM)
    for i in range(layers):
        ours, theirs = f"blk.{i}.", f"model.layers.{i}."

        def put(to, source, *shape, off=0):
            state[theirs + to] = values(ours + source, *shape) - off

        put("input_layernorm.weight", "attn_norm.weight", DIM, off=off)
        for part, rows in (("q", Q_HEADS), ("k", kv_heads), ("v", kv_heads)):
            put(f"self_attn.{part}_proj.weight", f"attn_{part}.weight", rows * head_dim, DIM)
            if llama and part != "v":
                key = theirs + f"self_attn.{part}_proj.weight"
                state[key] = unpermuted(state[key], rows)
            if name == "qwen2":
                put(f"self_attn.{part}_proj.bias", f"attn_{part}.bias", rows * head_dim)
            if part != "v" and (gemma or name == "qwen3"):
                put(f"self_attn.{part}_norm.weight", f"attn_{part}_norm.weight", head_dim, off=off)
        put("self_attn.o_proj.weight", "attn_output.weight", DIM, Q_HEADS * head_dim)
        if gemma:
            put("post_attention_layernorm.weight", "post_attention_norm.weight", DIM, off=1)
            put("pre_feedforward_layernorm.weight", "ffn_norm.weight", DIM, off=1)
            put("post_feedforward_layernorm.weight", "post_ffw_norm.weight", DIM, off=1)
        else:
            put("post_attention_layernorm.weight", "ffn_norm.weight", DIM)
        put("mlp.gate_proj.weight", "ffn_gate.weight", FFN, DIM)
        put("mlp.up_proj.weight", "ffn_up.weight", FFN, DIM)
        put("mlp.down_proj.weight", "ffn_down.weight", DIM, FFN)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("rotary" in key or "embed_scale" in key for key in missing), (missing, unexpected)
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0]
    return {"name": name, "layers": layers, "rows": ROWS,
            "scores": [[round(float(x), 7) for x in logits[row]] for row in ROWS]}


def plain(theta):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


def gemma3(layers, **scaling):
    kinds = ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(layers)]
    return {
        "layer_types": kinds, "sliding_window": WINDOW, "hidden_activation": "gelu_pytorch_tanh",
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6, **scaling},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    }


GEMMA3 = (Gemma3TextConfig, Gemma3ForCausalLM)
models = [
    scores("llama", (LlamaConfig, LlamaForCausalLM), 2, 12, 2, True, **plain(1000.0)),
    scores("qwen2", (Qwen2Config, Qwen2ForCausalLM), 2, 12, 2, False, **plain(1000.0)),
    scores("qwen3", (Qwen3Config, Qwen3ForCausalLM), 2, 16, 2, True, **plain(1000.0)),
    scores("gemma3", GEMMA3, 1, 16, 7, True, query_pre_attn_scalar=16, **gemma3(7)),
    # As the model of 27 billion weights: scores by the share of a head, and scaled rotation in the global layers.
    scores("gemma3", GEMMA3, 1, 16, 62, True, query_pre_attn_scalar=DIM // Q_HEADS,
           **gemma3(62, rope_type="linear", factor=8.0)),
]
print("[\n" + ",\n".join(json.dumps(m) for m in models) + "\n]")
