#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compile and run each line of code in the README's tables of masks, score functions, calls, memory and caches, and look
for a line of each that include/gqa offers: check_tables.py REPOSITORY COMPILER FLAG..."""

import pathlib
import re
import subprocess
import sys
import tempfile

# What a line may name.
PRELUDE = """
#include <gqa/gqa.hpp>
#include <iostream>

using namespace gqa;
using View = KVCache<float>::View;

constexpr Index n = 100, H = 8, G = 2, D = 16, layer = 5;
Eigen::Tensor<float, 3, Eigen::RowMajor> q(n, H, D), k(n, G, D), v(n, G, D), out(n, H, D), bias(1, n, n);
Eigen::Tensor<bool, 3, Eigen::RowMajor> allowed(1, n, n);
Eigen::Tensor<float, 2, Eigen::RowMajor> lse(n, H), cos_table(n, D / 2), sin_table(n, D / 2);
const float* const data = q.data();
Eigen::Tensor<float, 4, Eigen::RowMajor> q4(1, H, n, D), k4(1, G, n, D), v4(1, G, n, D), out4(1, H, n, D);
Eigen::Tensor<float, 3, Eigen::RowMajor> lse3(1, H, n);
Eigen::MatrixXf q_matrix(H * D, n), k_matrix(G * D, n), v_matrix(G * D, n), out_matrix(H * D, n);
std::vector<Eigen::MatrixXf> q_heads(H, Eigen::MatrixXf(D, n)), k_heads(G, Eigen::MatrixXf(D, n)), v_heads = k_heads,
    out_heads = q_heads;
Eigen::Tensor<float, 4, Eigen::RowMajor> queries(2, 1, H, D), keys(2, n, G, D), values(2, n, G, D);
const std::vector<Index> lengths{30, n}, q_offsets{29, n - 1};
const std::vector<Index> offsets{0, 40, n};
const std::vector<int> ids(n, 3);
const std::vector<Index> parents(n - 30, -1);
const bool bitmap[] = {true, false, true, true};
const std::vector<float> table(32 * H), weights(D, 1.0f), logits(H);
Eigen::ThreadPool pool(2);
Workspace workspace;

struct {
  Index num_threads() const { return 2; }
  void parallel_for(Index count, TaskRef task) const {
    for (Index i = 0; i < count; ++i) task(i);
  }
} executor;

KVCache<float> filled(Index tokens) {
  KVCache<float> cache({.max_tokens = n, .num_kv_heads = G, .head_dim = D});
  cache.append(TensorView<float>(k.data(), tokens, G, D), TensorView<float>(v.data(), tokens, G, D));
  return cache;
}
"""
MAIN = """
int main() {
  for (auto* x : {&q4, &k4, &v4, &queries, &keys, &values}) x->setRandom();
  for (auto* x : {&q_matrix, &k_matrix, &v_matrix}) x->setRandom();
  for (auto* heads : {&q_heads, &k_heads, &v_heads})
    for (auto& x : *heads) x.setRandom();
  q.setRandom(), k.setRandom(), v.setRandom(), bias.setRandom(), allowed.setConstant(true), cos_table.setRandom(), sin_table.setRandom();
  const KVCache<float> a = filled(40), b = filled(60);
  const KVList<View> system_prompt({a.layer(0)}), tails({a.layer(0), b.layer(0)});
  const CascadeLevel<KVList<View>> shared{system_prompt, {0, 2}}, own{tails, {0, 1, 2}};
  OnlineSoftmax<float> near(3, D), far(3, D), state(n * H, D);
%s
}
"""

# What these offer is for those who write masks and score functions, or helps another header.
MACHINERY = {"bitmap", "compose", "interval_mask", "mask_concept", "mask_ref", "score_chain", "score_mod_concept",
             "score_tensor"}
HELPERS = {"alibi_slopes", "as_mask"}


def rows(readme, marker):
    """The names and lines of code of the table after a marker."""
    found = re.search(rf"^<!-- {marker} -->\n((?:\|.*\n)+)", readme, re.MULTILINE)
    if not found:
        sys.exit(f"README.md has no table after <!-- {marker} -->")
    table = []
    for line in found.group(1).splitlines()[2:]:
        cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        code = re.fullmatch(r"`([^`]+)`", cells[1]) if len(cells) == 3 else None
        if not code:
            sys.exit(f"not three cells with one piece of code: {line}")
        table.append((cells[0], code.group(1)))
    return table


def offered(header):
    """The functions of a header that are documented for users, else its classes."""
    text = header.read_text(encoding="utf-8")
    text = re.sub(r"^namespace detail \{.*?^\}  // namespace detail", "", text, flags=re.M | re.S)
    # Namespace members begin in the first column.
    functions = set(re.findall(r"^(?!using|class|struct|requires|static|#)[a-zA-Z][\w:<> ,]*?\b(\w+)\(", text, re.M))
    return functions or set(re.findall(r"^class (\w+)", text, re.M))


def missing(include, lines):
    """What no line names."""
    named = set(re.findall(r"\w+", " ".join(lines)))
    for header in [*sorted(include.glob("mask/*.hpp")), *sorted(include.glob("score/*.hpp")), include / "explain.hpp"]:
        if header.stem not in MACHINERY:
            for name in sorted(offered(header) - HELPERS - named):
                yield f"{name} of {header.relative_to(include)} is in no table of README.md"


def main(repository, compiler, *flags):
    repository = pathlib.Path(repository)
    readme = (repository / "README.md").read_text(encoding="utf-8")
    tables = [row for marker in ("masks", "scores", "calls", "memory", "caches") for row in rows(readme, marker)]
    problems = list(missing(repository / "include/gqa", [code for _, code in tables]))
    if problems:
        sys.exit("\n".join(problems))

    statements = []
    for name, code in tables:
        call = code if code.endswith(";") else f"attention(q, k, v, {code});"
        statements.append(f'#line 1 "README.md: {name}"\n  {{ {call} }}')
    with tempfile.TemporaryDirectory() as folder:
        source, program = pathlib.Path(folder, "tables.cpp"), pathlib.Path(folder, "tables")
        source.write_text(PRELUDE + MAIN % "\n".join(statements), encoding="utf-8")
        # -O0: every line instantiates attention.
        command = [compiler, *flags, "-O0", "-pthread", str(source), "-o", str(program)]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        if built.returncode != 0:
            sys.exit(f"failed:\n{built.stdout}{built.stderr}")
        run = subprocess.run([program], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"failed:\n{run.stdout}{run.stderr}")


if __name__ == "__main__":
    main(*sys.argv[1:])
