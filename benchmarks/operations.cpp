// SPDX-License-Identifier: Apache-2.0
// What servers and beam searches do with a sequence of an 8B model besides attending to it, beside the same
// with contiguous caches.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <gqa/cache.hpp>
#include <gqa/core/memory.hpp>
#include <numeric>

#include "rows.hpp"
#include "timing.hpp"

namespace bench {
namespace {

using T = gqa::bfloat16;
using Pool = gqa::PagedCache<T>;
using Sequence = gqa::PagedSequence<T>;
using Contiguous = gqa::KVCache<T>;
constexpr Index L = 32, G = 8, D = 128;
constexpr Index tokens = 2000;  // the last of 32 pages is shared in part

Pool pool_of(Index pages) {
  return Pool({.num_pages = pages, .num_layers = L, .num_kv_heads = G, .head_dim = D});
}
Contiguous contiguous_of(Index most) {
  return Contiguous({.max_tokens = most, .num_layers = L, .num_kv_heads = G, .head_dim = D});
}

/// Adds the tokens of k, keys and values alike, in every layer.
template <class Cache>
void add(Cache&& cache, const Tensor<T>& k) {
  const gqa::Span span = cache.extend(k.dimension(1));
  for (Index layer = 0; layer < L; ++layer) cache.write(layer, span, k, k);
}

/// Whether a cache holds k's tokens first, in the first and the last layer.
template <class Cache>
bool holds(const Cache& cache, const Tensor<T>& k) {
  for (Index layer : {Index{0}, L - 1}) {
    Tensor<T> keys(k.dimensions()), values(k.dimensions());
    cache.read(layer, {0, k.dimension(1)}, keys, values);
    for (const auto* x : {&keys, &values})
      if (std::memcmp(x->data(), k.data(), static_cast<std::size_t>(k.size()) * sizeof(T)) != 0) return false;
  }
  return true;
}

template <class F>
double seconds_of(F&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// One token for all layers.
template <class Cache>
class AppendTo final : public Subject {
 public:
  AppendTo(std::shared_ptr<Pool> pool, Cache cache)
      : pool_(std::move(pool)),
        cache_(std::move(cache)),
        contiguous_(contiguous_of(4096)),
        k_(random_tensor<T>(1, 1, G, D, 2)) {}

  void run(Eigen::ThreadPool*) override { append(cache_); }

  std::string check(Eigen::ThreadPool*) override {
    cache_.clear();
    run(nullptr);
    return cache_.size() == 1 && holds(cache_, k_) ? "" : "the token is not what was written";
  }

  std::map<std::string, double> measure(double) override {
    std::vector<double> ratios;
    for (int turn = 0; turn < 25; ++turn) {
      const auto some = [&](auto& cache) {
        return seconds_of([&] {
          for (int i = 0; i < 16; ++i) append(cache);
        });
      };
      const double member = some(cache_);
      ratios.push_back(member / some(contiguous_));
    }
    return {{"of_contiguous", median(ratios)}};
  }

 private:
  template <class C>
  void append(C& cache) {
    if (cache.size() == cache.capacity()) cache.truncate(0);
    add(cache, k_);
  }

  std::shared_ptr<Pool> pool_;  // of a sequence in pages
  Cache cache_;
  Contiguous contiguous_;
  Tensor<T> k_;
};

/// A sequence in a pool with room for others, and the same in a contiguous cache.
class PoolSubject : public Subject {
 protected:
  explicit PoolSubject(Index others)
      : pool_(pool_of(32 + others)), k_(random_tensor<T>(1, tokens, G, D, 2)), id_(pool_.create()) {
    add(pool_.sequence(id_), k_);
  }

  Pool pool_;
  Tensor<T> k_;
  gqa::SequenceId id_;
};

class Fork final : public PoolSubject {
 public:
  Fork() : PoolSubject(1) {}

  void run(Eigen::ThreadPool*) override { pool_.free(pool_.fork(id_)); }

  std::string check(Eigen::ThreadPool*) override {
    const gqa::SequenceId child = pool_.fork(id_);
    const bool same = holds(pool_.sequence(child), k_), shared = pool_.statistics().shared == 32;
    pool_.free(child);
    return same && shared ? "" : "the child does not share its parent's tokens";
  }

  /// A child's first token of its own takes a copy of the page it stands in; a contiguous child a copy of
  /// all.
  std::map<std::string, double> measure(double) override {
    Contiguous contiguous = contiguous_of(tokens);
    add(contiguous, k_);
    std::vector<double> first, clone;
    for (int turn = 0; turn < 5; ++turn) {
      gqa::SequenceId child;
      first.push_back(seconds_of([&] {
        child = pool_.fork(id_);
        pool_.extend(child, 1);
      }));
      pool_.free(child);
      clone.push_back(seconds_of([&] { contiguous.clone(); }));
    }
    return {{"with_next_token_ms", median(first) * 1e3}, {"clone_ms", median(clone) * 1e3}};
  }
};

/// Four beams of one prompt.
class Reorder final : public PoolSubject {
 public:
  Reorder()
      : PoolSubject(2 * 4),
        token_(random_tensor<T>(1, 1, G, D, 4)),
        batch_({.num_seqs = 4, .max_tokens = tokens, .num_layers = L, .num_kv_heads = G, .head_dim = D}) {
    ids_ = {id_};
    while (ids_.size() < 4) ids_.push_back(pool_.fork(id_));
    Tensor<T> k(4, tokens, G, D);
    for (Index b = 0; b < 4; ++b) k.chip<0>(b) = k_.chip<0>(0);
    const auto spans = batch_.extend(tokens);
    for (Index layer = 0; layer < L; ++layer) batch_.write(layer, spans, k, k);
  }

  void run(Eigen::ThreadPool*) override { pool_.reorder(ids_, parents_); }

  std::string check(Eigen::ThreadPool*) override {
    // Each beam gets a token of its own, and the last a second one.
    for (const auto id : ids_) add(pool_.sequence(id), token_);
    add(pool_.sequence(ids_[3]), token_);
    pool_.reorder(ids_, std::vector<Index>{3, 0, 0, 2});
    const bool sizes = pool_.size(ids_[0]) == tokens + 2 && pool_.size(ids_[3]) == tokens + 1;
    for (const auto id : ids_) {
      pool_.truncate(id, tokens);
      if (!sizes || !holds(pool_.sequence(id), k_)) return "the beams do not go on as their parents";
    }
    return {};
  }

  /// A whole step, with a token for each beam: those that share the last page copy it.
  std::map<std::string, double> measure(double) override {
    std::vector<double> step, batch;
    for (int turn = 0; turn < 9; ++turn) {
      step.push_back(seconds_of([&] {
        run(nullptr);
        for (const auto id : ids_) add(pool_.sequence(id), token_);
      }));
      if (turn % 2 == 0) batch.push_back(seconds_of([&] { batch_.reorder(parents_); }));
    }
    for (const auto id : ids_) pool_.truncate(id, tokens);
    return {{"with_next_tokens_ms", median(step) * 1e3}, {"batch_reorder_ms", median(batch) * 1e3}};
  }

 private:
  std::vector<Index> parents_ = {0, 0, 1, 1};
  std::vector<gqa::SequenceId> ids_;
  Tensor<T> token_;
  gqa::BatchCache<T> batch_;
};

/// A sequence whose prompt has been there before.
class Create final : public PoolSubject {
 public:
  Create() : PoolSubject(1), ids_(static_cast<std::size_t>(tokens)) {
    std::iota(ids_.begin(), ids_.end(), 7);
    pool_.publish(id_, ids_);
    ids_.resize(tokens / 64 * 64);
  }

  void run(Eigen::ThreadPool*) override { pool_.free(pool_.create(ids_).id); }

  std::string check(Eigen::ThreadPool*) override {
    const Pool::Match match = pool_.create(ids_);
    Tensor<T> k = k_.slice(Eigen::array<Index, 4>{}, Eigen::array<Index, 4>{1, std::ssize(ids_), G, D});
    const bool same = match.tokens == std::ssize(ids_) && holds(pool_.sequence(match.id), k);
    pool_.free(match.id);
    return same ? "" : "the sequence does not begin with what was published";
  }

  std::map<std::string, double> measure(double) override {
    const std::vector<gqa::TokenId> fewer(ids_.begin(), ids_.end() - 8);
    std::vector<double> with_tail, publish;
    // Publishing looks at no keys: those of a small model do.
    Pool small({.num_pages = 9 * 32, .num_kv_heads = 1, .head_dim = 8});
    const Tensor<T> k = random_tensor<T>(1, tokens, 1, 8, 2);
    for (int turn = 0; turn < 9; ++turn) {
      gqa::SequenceId id;
      with_tail.push_back(seconds_of([&] { id = pool_.create(fewer).id; }));
      pool_.free(id);
      id = small.create();
      small.write(0, id, small.extend(id, tokens), k, k);
      std::iota(ids_.begin(), ids_.end(), 10000 * turn);
      publish.push_back(seconds_of([&] { small.publish(id, ids_); }));
    }
    std::iota(ids_.begin(), ids_.end(), 7);
    return {{"with_part_of_a_page_ms", median(with_tail) * 1e3}, {"publish_ms", median(publish) * 1e3}};
  }

 private:
  std::vector<gqa::TokenId> ids_;
};

class Swap final : public PoolSubject {
 public:
  Swap()
      : PoolSubject(0),
        bytes_(static_cast<std::size_t>(pool_.swap_bytes(id_))),
        memory_(gqa::allocate_aligned<std::byte>(bytes_)),
        copy_(gqa::allocate_aligned<std::byte>(bytes_)) {}

  void run(Eigen::ThreadPool*) override {
    pool_.swap_out(id_, {memory_.get(), bytes_});
    pool_.swap_in(id_, {memory_.get(), bytes_});
  }

  std::string check(Eigen::ThreadPool*) override {
    run(nullptr);
    std::memset(copy_.get(), 0, bytes_);
    return holds(pool_.sequence(id_), k_) ? "" : "what came back is not what was swapped out";
  }

  std::map<std::string, double> measure(double) override {
    std::vector<double> out, in;
    for (int turn = 0; turn < 7; ++turn) {
      const double gone = seconds_of([&] { pool_.swap_out(id_, {memory_.get(), bytes_}); });
      const double back = seconds_of([&] { pool_.swap_in(id_, {memory_.get(), bytes_}); });
      const double plain = seconds_of([&] {
        std::memcpy(copy_.get(), memory_.get(), bytes_);
        asm volatile("" : : "r"(copy_.get()) : "memory");
      });
      out.push_back(plain / gone);
      in.push_back(plain / back);
    }
    return {{"out_of_memcpy", median(out)}, {"in_of_memcpy", median(in)}};
  }

 private:
  std::size_t bytes_;
  gqa::AlignedArray<std::byte> memory_, copy_;
};

Row operation_row(const char* kind, Index n, double bytes, double pool_tokens,
                  std::function<std::unique_ptr<Subject>()> make) {
  const std::string name =
      std::string(kind) + "/bf16/L:32/G:8/D:128/tokens:" + std::to_string(n) + "/threads:1";
  Row row{.name = name, .memory_key = name, .bytes = bytes, .dtype = Dtype::bf16, .make = std::move(make)};
  row.memory = pool_tokens * 2 * L * G * D * sizeof(T);
  row.footprint = row.memory;
  return row;
}

}  // namespace

std::vector<Row> operation_rows() {
  constexpr double a_token = 2.0 * L * G * D * sizeof(T);
  return {operation_row("paged_append", 1, a_token, 2 * 4096,
                        [] {
                          const auto pool = std::make_shared<Pool>(pool_of(64));
                          return std::make_unique<AppendTo<Sequence>>(pool, pool->sequence(pool->create()));
                        }),
          operation_row("ring_append", 1, a_token, 2 * 4096,
                        [] {
                          using Ring = gqa::RingCache<T>;
                          Ring ring({.window = 4096, .num_layers = L, .num_kv_heads = G, .head_dim = D});
                          return std::make_unique<AppendTo<Ring>>(nullptr, std::move(ring));
                        }),
          operation_row("paged_fork", tokens, 0, 3 * tokens, [] { return std::make_unique<Fork>(); }),
          operation_row("paged_reorder", tokens, 0, 7 * tokens, [] { return std::make_unique<Reorder>(); }),
          operation_row("paged_create", tokens, 0, 2 * tokens, [] { return std::make_unique<Create>(); }),
          operation_row("paged_swap", tokens, 4 * a_token * tokens, 3 * tokens,
                        [] { return std::make_unique<Swap>(); })};
}

}  // namespace bench
