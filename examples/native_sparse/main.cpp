// SPDX-License-Identifier: Apache-2.0
// Native sparse attention over tokens that arrive: what each branch reads of all keys.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>
#include <unsupported/Eigen/CXX11/Tensor>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "command_line.hpp"
#include "failure.hpp"
#include "gqa/attention.hpp"
#include "gqa/mask/compose.hpp"
#include "native_sparse.hpp"

namespace native_sparse {
namespace {

std::vector<float> random_values(Index n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& x : values) x = normal(random);
  return values;
}

/// A sequence's queries, keys, values and gates: here random, in a model projections of its tokens, and
/// sigmoids of them.
struct Sequence {
  Index tokens;
  const Config& c;
  std::vector<float> q = random_values(tokens * c.num_q_heads * c.head_dim, 1),
                     k = random_values(tokens * c.num_kv_heads * c.head_dim, 2),
                     v = random_values(tokens * c.num_kv_heads * c.value_dim, 3),
                     gates = random_values(tokens * c.num_q_heads * 3, 4);

  Tokens queries(Index begin, Index n) const { return part(q, begin, n, c.num_q_heads, c.head_dim); }
  KeysValues keys(Index begin, Index n) const {
    return {part(k, begin, n, c.num_kv_heads, c.head_dim), part(v, begin, n, c.num_kv_heads, c.value_dim)};
  }
  Tokens gates_of(Index begin, Index n) const { return part(gates, begin, n, c.num_q_heads, 3); }

 private:
  static Tokens part(const std::vector<float>& x, Index begin, Index n, Index heads, Index dim) {
    return {x.data() + begin * heads * dim, n, heads, dim};
  }
};

int run(int argc, const char* const* argv) {
  Config config{.max_tokens = 8192};
  int threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  CLI::App app("Counts the keys that native sparse attention reads of a sequence, branch by branch.",
               "native_sparse");
  const auto size = [&](const char* name, Index& value, const char* what) {
    app.add_option(name, value, what)->check(CLI::PositiveNumber)->capture_default_str();
  };
  size("--heads", config.num_q_heads, "query heads");
  size("--kv-heads", config.num_kv_heads, "KV heads");
  size("--head-dim", config.head_dim, "elements of a head");
  size("--tokens", config.max_tokens, "tokens of the sequence");
  size("--block", config.block, "tokens that a compressed key stands for");
  size("--stride", config.stride, "how many further the next one begins");
  size("--page", config.page, "tokens that are selected together");
  size("--pages", config.pages, "pages that a KV head selects");
  size("--window", config.window, "last tokens that are read in any case");
  app.add_option("--threads", threads, "threads to compute with")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  bool json = false;
  app.add_flag("--json", json, "print one JSON object");
  if (!common::parse(app, argc, argv)) return 0;
  config.value_dim = config.head_dim;
  config.scale = 1 / std::sqrt(static_cast<double>(config.head_dim));

  Eigen::ThreadPool pool(threads);
  gqa::PoolExecutor executor(pool);
  const Index n = config.max_tokens, H = config.num_q_heads, D = config.head_dim;
  Sequence sequence{n, config};
  for (float& gate : sequence.gates) gate = 1 / (1 + std::exp(-gate));
  NativeSparse layer(config);
  std::vector<float> out(static_cast<std::size_t>(n * H * D));
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  if (!json) {
    std::puts("         keys read for the last of so many tokens");
    std::puts("tokens   compressed  selected  window     all  of all");
  }
  Index done = 0;
  for (Index length = std::min<Index>(n, 512);; length = std::min(n, 2 * length)) {
    KeysRead read;
    for (const Index end : {length - 1, length}) {  // the last one alone
      if (end == done) continue;
      const KeysValues kv = sequence.keys(done, end - done);
      read = layer.forward(executor, sequence.queries(done, end - done), {kv, kv, kv},
                           sequence.gates_of(done, end - done),
                           gqa::TensorView<float>(out.data() + done * H * D, end - done, H, D));
      done = end;
    }
    rows.push_back({{"tokens", length},
                    {"compressed", read.compressed},
                    {"selected", read.selected},
                    {"window", read.window},
                    {"all", read.all}});
    if (!json)
      std::printf("%6td %12.0f %9.0f %7.0f %7.0f %6.1f %%\n", length, read.compressed, read.selected,
                  read.window, read.all, 100 * read.sum() / read.all);
    if (length == n) break;
  }

  // One softmax over the selected pages and the window, of two calls that share no key.
  const Tokens last = sequence.queries(n - 1, 1);
  std::vector<float> merged(static_cast<std::size_t>(H * D)), both(merged.size());
  attend_to_both(executor, last, layer.keys(), *layer.last_selection(), config.window, config.scale,
                 gqa::TensorView<float>(merged.data(), 1, H, D));
  gqa::attention(executor, last, layer.keys(), gqa::TensorView<float>(both.data(), 1, H, D),
                 (*layer.last_selection() | gqa::sliding_window(config.window)) & gqa::causal(),
                 gqa::AttentionOptions{.scale = config.scale});
  float most = 0;
  for (std::size_t i = 0; i < both.size(); ++i) most = std::max(most, std::abs(both[i] - merged[i]));
  if (!json)
    std::printf("selected and window merged by their lse: off by at most %.1e from one call over both\n",
                most);

  // Everything selected, and nothing else let through.
  Config whole = config;
  whole.pages = std::max<Index>(3, gqa::ceil_div(n, config.page));
  NativeSparse full(whole);
  for (std::size_t i = 0; i < sequence.gates.size(); ++i) sequence.gates[i] = i % 3 == 1 ? 1.0F : 0.0F;
  const KeysValues kv = sequence.keys(0, n);
  const Index rest = std::min<Index>(n, 64);  // its last tokens
  std::vector<float> tail(static_cast<std::size_t>(rest * H * D));
  full.forward(executor, sequence.queries(0, n), {kv, kv, kv}, sequence.gates_of(0, n),
               gqa::TensorView<float>(out.data(), n, H, D));
  gqa::attention(executor, sequence.queries(n - rest, rest), full.keys(),
                 gqa::TensorView<float>(tail.data(), rest, H, D), gqa::causal(),
                 gqa::AttentionOptions{.scale = config.scale});
  const bool same =
      std::memcmp(tail.data(), out.data() + (n - rest) * H * D, tail.size() * sizeof(float)) == 0;
  if (json)
    std::cout << nlohmann::ordered_json{{"keys_read", rows},
                                        {"largest_difference_of_merged", most},
                                        {"all_selected_is_attention", same}}
              << "\n";
  else
    std::printf("every page selected, gates 0, 1, 0: %s attention\n", same ? "the same bits as" : "NOT");
  return same ? 0 : 1;
}

}  // namespace
}  // namespace native_sparse

int main(int argc, char** argv) {
  return common::exit_code_of("native_sparse", [&] { return native_sparse::run(argc, argv); });
}
