// SPDX-License-Identifier: Apache-2.0
// A decoder block with as many KV heads as query heads, with fewer, with one, and with a latent in their
// place: what each has of parameters and keeps of a token, how fast it is, and that its decode is its
// prefill.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>
#include <unsupported/Eigen/CXX11/Tensor>
#include <unsupported/Eigen/CXX11/ThreadPool>
#include <vector>

#include "block.hpp"
#include "command_line.hpp"
#include "failure.hpp"
#include "gqa/cache.hpp"

namespace block {
namespace {

using Clock = std::chrono::steady_clock;

/// Feeds tokens in pieces of `piece` to a new cache. The block's output, and the seconds it took.
template <class Heads, class Cache>
std::pair<Matrix, double> feed(const DecoderBlock<Heads>& decoder, Eigen::ThreadPool& pool,
                               const Matrix& tokens, Index piece, Cache&& cache) {
  gqa::LayerMemory<> memory;
  Matrix all(tokens.rows(), tokens.cols());
  const auto start = Clock::now();
  for (Index t = 0; t < tokens.rows(); t += piece) {
    const Index n = std::min(piece, tokens.rows() - t);
    Matrix x = tokens.middleRows(t, n);
    decoder.forward(pool, memory, x, cache, 0, cache.extend(n));
    all.middleRows(t, n) = x;
  }
  return {all, std::chrono::duration<double>(Clock::now() - start).count()};
}

/// One kind of block: what it has, keeps and takes.
struct Measured {
  const char* kind;
  Index num_q_heads, num_kv_heads, attention_parameters, block_parameters, cache_bytes_per_token;
  double prefill_rate, decode_rate;  ///< tokens a second
  bool same_bits;
};

/// `make_cache()` is a new one for the tokens.
template <class Heads, class MakeCache>
Measured measure(const char* kind, const Sizes& sizes, Index kv_heads, Index num_tokens,
                 Eigen::ThreadPool& pool, MakeCache&& make_cache) {
  const DecoderBlock<Heads> decoder(sizes);
  const Matrix tokens = Matrix::Random(num_tokens, sizes.model_dim());
  const auto [prefill, prefill_seconds] = feed(decoder, pool, tokens, num_tokens, make_cache());
  const auto [decode, decode_seconds] = feed(decoder, pool, tokens, 1, make_cache());
  return {kind,
          sizes.num_q_heads,
          kv_heads,
          decoder.attention().num_parameters(),
          decoder.num_parameters(),
          make_cache().bytes_per_token(),
          static_cast<double>(num_tokens) / prefill_seconds,
          static_cast<double>(num_tokens) / decode_seconds,
          prefill == decode};
}

Measured measure_grouped(const Sizes& sizes, Index num_tokens, Eigen::ThreadPool& pool) {
  const char* kind = sizes.num_kv_heads == sizes.num_q_heads ? "MHA"
                     : sizes.num_kv_heads == 1               ? "MQA"
                                                             : "GQA";
  return measure<GroupedHeads>(kind, sizes, sizes.num_kv_heads, num_tokens, pool, [&] {
    return gqa::KVCache<gqa::bfloat16>(
        {.max_tokens = num_tokens, .num_kv_heads = sizes.num_kv_heads, .head_dim = sizes.head_dim});
  });
}

Measured measure_latent(const Sizes& sizes, Index num_tokens, Eigen::ThreadPool& pool) {
  return measure<LatentHeads>("MLA", sizes, 1, num_tokens, pool, [&] {
    return gqa::LatentCache<gqa::bfloat16>(
        {.max_tokens = num_tokens, .latent_dim = sizes.latent_dim, .rope_dim = LatentHeads::rope_dim(sizes)});
  });
}

void print_text(const Measured& m) {
  std::printf("%s %5td %5td %14td %14td %12td %11.0f %11.0f  %s\n", m.kind, m.num_q_heads, m.num_kv_heads,
              m.attention_parameters, m.block_parameters, m.cache_bytes_per_token, m.prefill_rate,
              m.decode_rate, m.same_bits ? "the same bits" : "DIFFERENT BITS");
}

nlohmann::ordered_json json_of(const Measured& m) {
  return {{"kind", m.kind},
          {"num_q_heads", m.num_q_heads},
          {"num_kv_heads", m.num_kv_heads},
          {"attention_parameters", m.attention_parameters},
          {"block_parameters", m.block_parameters},
          {"cache_bytes_per_token", m.cache_bytes_per_token},
          {"prefill_tokens_per_second", m.prefill_rate},
          {"decode_tokens_per_second", m.decode_rate},
          {"same_bits", m.same_bits}};
}

int run(int argc, const char* const* argv) {
  Sizes sizes;
  Index num_tokens = 100;
  Index threads = std::max<Index>(1, std::thread::hardware_concurrency());
  bool json = false;
  CLI::App app("Counts parameters, cache and tokens a second of a decoder block with MHA, GQA, MQA and MLA.",
               "block");
  const auto size = [&](const char* name, Index& value, const char* help, Index most) {
    app.add_option(name, value, help)->check(CLI::Range(Index{1}, most))->capture_default_str();
  };
  constexpr Index largest = 1 << 20;
  size("--heads", sizes.num_q_heads, "query heads", largest);
  size("--kv-heads", sizes.num_kv_heads, "KV heads of GQA", largest);
  size("--head-dim", sizes.head_dim, "elements of a head", largest);
  size("--latent-dim", sizes.latent_dim, "elements of MLA's latent", largest);
  size("--ffn-dim", sizes.ffn_dim, "elements of the feed-forward layer", largest);
  size("--tokens", num_tokens, "tokens to feed", largest);
  size("--threads", threads, "threads to compute with", 1024);
  app.add_flag("--json", json, "print one JSON object");
  if (!common::parse(app, argc, argv)) return 0;
  Eigen::ThreadPool pool(static_cast<int>(threads));
  std::vector<Measured> all;
  for (const Index kv_heads : std::set<Index, std::greater<>>{sizes.num_q_heads, sizes.num_kv_heads, 1}) {
    sizes.num_kv_heads = kv_heads;
    all.push_back(measure_grouped(sizes, num_tokens, pool));
  }
  if (sizes.head_dim % 4 == 0)  // half of it is rotated in pairs
    all.push_back(measure_latent(sizes, num_tokens, pool));
  if (json) {
    auto blocks = nlohmann::ordered_json::array();
    for (const Measured& each : all) blocks.push_back(json_of(each));
    std::cout << nlohmann::ordered_json{{"tokens", num_tokens}, {"blocks", blocks}}.dump() << "\n";
    return 0;
  }
  std::puts(
      "        H     G      attention          block  cache bytes     prefill      decode  prefill and");
  std::puts("                 parameters     parameters   of a token    tokens/s    tokens/s  decode give");
  for (const Measured& each : all) print_text(each);
  GQA_CHECK(std::fflush(stdout) == 0, std::runtime_error, "cannot write to standard output");
  return 0;
}

}  // namespace
}  // namespace block

/// 0: done; 2: the arguments are wrong; 1: anything else.
int main(int argc, char** argv) {
  return common::exit_code_of("block", [&] { return block::run(argc, argv); });
}
