// SPDX-License-Identifier: Apache-2.0
// A decoder block with as many KV heads as query heads, with fewer, with one, and with a latent in their
// place: what each has of parameters and keeps of a token, how fast it is, and that its decode is its
// prefill.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <set>
#include <thread>
#include <unsupported/Eigen/CXX11/Tensor>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "block.hpp"
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

/// `make_cache()` is a new one for the tokens.
template <class Heads, class MakeCache>
void report(const char* kind, const Sizes& sizes, Index kv_heads, Index num_tokens, Eigen::ThreadPool& pool,
            MakeCache&& make_cache) {
  const DecoderBlock<Heads> decoder(sizes);
  const Matrix tokens = Matrix::Random(num_tokens, sizes.model_dim());
  const auto [prefill, prefill_seconds] = feed(decoder, pool, tokens, num_tokens, make_cache());
  const auto [decode, decode_seconds] = feed(decoder, pool, tokens, 1, make_cache());
  std::printf("%s %5td %5td %14td %14td %12td %11.0f %11.0f  %s\n", kind, sizes.num_q_heads, kv_heads,
              decoder.attention().num_parameters(), decoder.num_parameters(), make_cache().bytes_per_token(),
              static_cast<double>(num_tokens) / prefill_seconds,
              static_cast<double>(num_tokens) / decode_seconds,
              prefill == decode ? "the same bits" : "DIFFERENT BITS");
}

void report_grouped(const Sizes& sizes, Index num_tokens, Eigen::ThreadPool& pool) {
  const char* kind = sizes.num_kv_heads == sizes.num_q_heads ? "MHA"
                     : sizes.num_kv_heads == 1               ? "MQA"
                                                             : "GQA";
  report<GroupedHeads>(kind, sizes, sizes.num_kv_heads, num_tokens, pool, [&] {
    return gqa::KVCache<gqa::bfloat16>(
        {.max_tokens = num_tokens, .num_kv_heads = sizes.num_kv_heads, .head_dim = sizes.head_dim});
  });
}

void report_latent(const Sizes& sizes, Index num_tokens, Eigen::ThreadPool& pool) {
  report<LatentHeads>("MLA", sizes, 1, num_tokens, pool, [&] {
    return gqa::LatentCache<gqa::bfloat16>(
        {.max_tokens = num_tokens, .latent_dim = sizes.latent_dim, .rope_dim = LatentHeads::rope_dim(sizes)});
  });
}

int run(int argc, const char* const* argv) {
  Sizes sizes;
  Index num_tokens = 100;
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  CLI::App app("Counts parameters, cache and tokens a second of a decoder block with MHA, GQA, MQA and MLA.",
               "block");
  app.add_option("--heads", sizes.num_q_heads, "query heads")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--kv-heads", sizes.num_kv_heads, "KV heads of GQA")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--head-dim", sizes.head_dim, "elements of a head")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--latent-dim", sizes.latent_dim, "elements of MLA's latent")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--ffn-dim", sizes.ffn_dim, "elements of the feed-forward layer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--tokens", num_tokens, "tokens to feed")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--threads", threads, "threads")->check(CLI::PositiveNumber)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  Eigen::ThreadPool pool(threads);
  std::puts(
      "        H     G      attention          block  cache bytes     prefill      decode  prefill and");
  std::puts("                 parameters     parameters   of a token    tokens/s    tokens/s  decode give");
  for (const Index kv_heads : std::set<Index, std::greater<>>{sizes.num_q_heads, sizes.num_kv_heads, 1}) {
    sizes.num_kv_heads = kv_heads;
    report_grouped(sizes, num_tokens, pool);
  }
  if (sizes.head_dim % 4 == 0)  // half of it is rotated in pairs
    report_latent(sizes, num_tokens, pool);
  return 0;
}

}  // namespace
}  // namespace block

int main(int argc, char** argv) try { return block::run(argc, argv); } catch (const std::exception& error) {
  std::cerr << "block: " << error.what() << '\n';
  return 2;
}
