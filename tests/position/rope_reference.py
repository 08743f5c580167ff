#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes rope_reference.hpp: inverse frequencies as Hugging Face transformers computes them.

    pip install torch transformers && ./rope_reference.py > rope_reference.hpp

transformers computes in float32, hence the nine digits. For the NTK row it is asked at the sequence
length where its dynamic scaling multiplies the base by exactly alpha^(d / (d - 2)).
"""
import torch
import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

# name: (head_dim, max_position_embeddings, rope parameters, sequence length or None)
CASES = {
    "llama_3_1": (128, 131072, dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
                                    high_freq_factor=4.0, original_max_position_embeddings=8192), None),
    "llama_3_2": (64, 131072, dict(rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0,
                                   high_freq_factor=4.0, original_max_position_embeddings=8192), None),
    "qwen_2_5_yarn": (128, 32768, dict(rope_type="yarn", rope_theta=1000000.0, factor=4.0,
                                       original_max_position_embeddings=32768), None),
    "deepseek_v3_yarn": (64, 163840, dict(rope_type="yarn", rope_theta=10000.0, factor=40.0, beta_fast=32.0,
                                          beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0,
                                          original_max_position_embeddings=4096), None),
    "gpt_oss_yarn": (64, 131072, dict(rope_type="yarn", rope_theta=150000.0, factor=32.0, beta_fast=32.0,
                                      beta_slow=1.0, truncate=False,
                                      original_max_position_embeddings=4096), None),
    "gemma_3_linear": (256, 131072, dict(rope_type="linear", rope_theta=1000000.0, factor=8.0), None),
    "ntk_alpha_4": (128, 2048, dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0), 2 * 2048 - 512),
    "partial_linear": (80, 2048, dict(rope_type="linear", rope_theta=10000.0, factor=2.0,
                                      partial_rotary_factor=0.4), None),
}

print("// SPDX-License-Identifier: Apache-2.0")
print(f"// Written by rope_reference.py with transformers {transformers.__version__} and torch"
      f" {torch.__version__.split('+')[0]}; not to be edited.")
print("#pragma once\n\n#include <vector>\n\nnamespace rope_reference {\n")
print("struct Frequencies {\n  double attention_factor;\n  std::vector<double> inverse;\n};\n")
print("// clang-format off")
for name, (head_dim, context, parameters, seq_len) in CASES.items():
    config = LlamaConfig(hidden_size=head_dim, num_attention_heads=1, num_key_value_heads=1, head_dim=head_dim,
                         max_position_embeddings=context, rope_parameters=parameters)
    if parameters["rope_type"] == "dynamic":  # base * (factor * seq_len / context - (factor - 1))^(d / (d - 2))
        alpha = parameters["factor"] * seq_len / context - (parameters["factor"] - 1)
        assert alpha == 4.0, alpha
    inverse, attention_factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu", seq_len=seq_len)
    values = [f"{v:.9g}" for v in inverse.to(torch.float64).tolist()]
    print(f"inline const Frequencies {name} = {{{attention_factor:.17g}, {{")
    for i in range(0, len(values), 8):
        print("    " + ", ".join(values[i:i + 8]) + ",")
    print("}};")
print("// clang-format on\n\n}  // namespace rope_reference")
