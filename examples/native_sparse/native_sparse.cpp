// SPDX-License-Identifier: Apache-2.0
#include "native_sparse.hpp"

#include <algorithm>
#include <numeric>
#include <unsupported/Eigen/CXX11/Tensor>
#include <unsupported/Eigen/CXX11/ThreadPool>
#include <utility>

#include "gqa/attention.hpp"
#include "gqa/inspect/probability_rows.hpp"
#include "gqa/mask/compose.hpp"
#include "gqa/mask/interval_mask.hpp"
#include "gqa/mask/window.hpp"

namespace native_sparse {
namespace {

/// The compressed keys whose blocks have ended with the query: a mask between positions and blocks.
class EndedBlocks : public gqa::IntervalMask<EndedBlocks> {
 public:
  EndedBlocks(Index block, Index stride) : block_(block), stride_(stride) {}
  gqa::Range visible(Index q_pos) const {
    return {0, q_pos + 1 < block_ ? 0 : (q_pos + 1 - block_) / stride_ + 1};
  }

 private:
  Index block_, stride_;
};

template <class T>
gqa::TensorView<T> rows(const gqa::TensorView<T>& x, Index begin, Index end) {
  return {
      x.at(0, begin, 0), {1, end - begin, x.heads, x.dim}, {x.batch_stride, x.token_stride, x.head_stride}};
}
KeysValues rows(const KeysValues& x, Index begin, Index end) {
  return {rows(x.k, begin, end), rows(x.v, begin, end)};
}

Config checked(const Config& c) {
  const auto positive = [](Index x, const char* name) {
    GQA_CHECK(x >= 1, std::invalid_argument, name << " is " << x << ", expected at least 1");
  };
  positive(c.num_kv_heads, "num_kv_heads");
  GQA_CHECK(c.num_q_heads >= 1 && c.num_q_heads % c.num_kv_heads == 0, std::invalid_argument,
            "num_q_heads is " << c.num_q_heads << ", expected a multiple of the " << c.num_kv_heads
                              << " of num_kv_heads");
  positive(c.stride, "stride");
  for (const auto& [size, name] : {std::pair{c.block, "block"}, {c.page, "page"}})
    GQA_CHECK(size >= 1 && size % c.stride == 0, std::invalid_argument,
              name << " is " << size << ", expected a multiple of the stride of " << c.stride);
  GQA_CHECK(c.pages >= 3, std::invalid_argument,
            "pages is " << c.pages << ", expected at least 3: the first and the two newest");
  positive(c.window, "window");
  positive(c.max_span, "max_span");
  positive(c.max_tokens, "max_tokens");
  return c;
}

}  // namespace

NativeSparse::NativeSparse(const Config& config, Compress keys, Compress values)
    : config_(checked(config)),
      compress_keys_(std::move(keys)),
      compress_values_(std::move(values)),
      compressed_({.max_tokens = config.max_tokens / config.stride + 1,
                   .num_kv_heads = config.num_kv_heads,
                   .head_dim = config.head_dim,
                   .value_dim = config.value_dim}),
      all_({.max_tokens = config.max_tokens,
            .num_kv_heads = config.num_kv_heads,
            .head_dim = config.head_dim,
            .value_dim = config.value_dim}),
      window_({.window = config.window,
               .max_span = config.max_span,
               .num_kv_heads = config.num_kv_heads,
               .head_dim = config.head_dim,
               .value_dim = config.value_dim}) {
  // One block of zeros: what does not fit is known before there are tokens.
  pending_k_.resize(static_cast<std::size_t>(config.block * config.num_kv_heads * config.head_dim));
  pending_v_.resize(static_cast<std::size_t>(config.block * config.num_kv_heads * config.value_dim));
  compress_pending();
  compressed_.clear();
  pending_k_.clear();
  pending_v_.clear();
}

KeysRead NativeSparse::forward(gqa::PoolExecutor executor, const Tokens& q, const Branches& branches,
                               const Tokens& gates, const gqa::TensorView<float>& out) {
  check(q, branches, gates, out);
  KeysRead read;
  for (Index begin = 0; begin < q.tokens; begin += config_.max_span) {
    const Index end = std::min(begin + config_.max_span, q.tokens);
    take_in({rows(branches.compressed, begin, end), rows(branches.selected, begin, end),
             rows(branches.window, begin, end)});
    attend_chunk(executor, rows(q, begin, end), rows(gates, begin, end), rows(out, begin, end), read);
  }
  return read;
}

void NativeSparse::check(const Tokens& q, const Branches& branches, const Tokens& gates,
                         const gqa::TensorView<float>& out) const {
  const auto expect = [&](const auto& x, const char* name, Index heads, Index dim) {
    GQA_CHECK(x.batch == 1 && x.tokens == q.tokens && x.heads == heads && x.dim == dim, std::invalid_argument,
              name << ": size is " << x.tokens << " x " << x.heads << " x " << x.dim << ", expected "
                   << q.tokens << " x " << heads << " x " << dim);
  };
  expect(q, "q", config_.num_q_heads, config_.head_dim);
  for (const KeysValues* kv : {&branches.compressed, &branches.selected, &branches.window}) {
    expect(kv->k, "k", config_.num_kv_heads, config_.head_dim);
    expect(kv->v, "v", config_.num_kv_heads, config_.value_dim);
  }
  expect(gates, "gates", config_.num_q_heads, 3);
  expect(out, "out", config_.num_q_heads, config_.value_dim);
  GQA_CHECK(
      q.tokens <= config_.max_tokens - size(), std::length_error,
      q.tokens << " more tokens than " << size() << ", expected at most " << config_.max_tokens << " in all");
}

void NativeSparse::take_in(const Branches& branches) {
  const Index n = branches.selected.k.tokens;
  all_.append(branches.selected.k, branches.selected.v);
  window_.write(0, window_.extend(n), branches.window.k, branches.window.v);
  compress(branches.compressed);
}

void NativeSparse::compress(const KeysValues& kv) {
  const Index G = config_.num_kv_heads, D = config_.head_dim, Dv = config_.value_dim;
  for (Index t = 0; t < kv.k.tokens; ++t)
    for (Index g = 0; g < G; ++g) {
      pending_k_.insert(pending_k_.end(), kv.k.at(0, t, g), kv.k.at(0, t, g) + D);
      pending_v_.insert(pending_v_.end(), kv.v.at(0, t, g), kv.v.at(0, t, g) + Dv);
    }
  compress_pending();
}

void NativeSparse::compress_pending() {
  const Index G = config_.num_kv_heads, D = config_.head_dim, Dv = config_.value_dim;
  std::vector<float> k(static_cast<std::size_t>(G * D)), v(static_cast<std::size_t>(G * Dv));
  while (std::ssize(pending_k_) >= config_.block * G * D) {
    const gqa::TensorView<float> one_k(k.data(), 1, G, D), one_v(v.data(), 1, G, Dv);
    compress_keys_(Tokens(pending_k_.data(), config_.block, G, D), one_k);
    compress_values_(Tokens(pending_v_.data(), config_.block, G, Dv), one_v);
    compressed_.append(Tokens(one_k), Tokens(one_v));
    pending_k_.erase(pending_k_.begin(), pending_k_.begin() + config_.stride * G * D);
    pending_v_.erase(pending_v_.begin(), pending_v_.begin() + config_.stride * G * Dv);
  }
}

void NativeSparse::attend_chunk(gqa::PoolExecutor executor, const Tokens& q, const Tokens& gates,
                                const gqa::TensorView<float>& out, KeysRead& read) {
  const Index H = config_.num_q_heads, Dv = config_.value_dim, first = size() - q.tokens;
  const EndedBlocks ended(config_.block, config_.stride);
  const gqa::AttentionOptions how{.scale = config_.scale, .q_offset = first, .workspace = &workspace_};
  std::vector<float> sums(static_cast<std::size_t>(q.tokens * H * Dv)), branch(sums.size());
  const gqa::TensorView<float> part(branch.data(), q.tokens, H, Dv);
  const auto used = [&](Index gate) {
    for (Index t = 0; t < q.tokens; ++t)
      for (Index h = 0; h < H; ++h)
        if (gates.at(0, t, h)[gate] != 0) return true;
    return false;
  };
  bool any = false;
  const auto add = [&](Index gate) {
    for (Index t = 0; t < q.tokens; ++t)
      for (Index h = 0; h < H; ++h) {
        const float factor = gates.at(0, t, h)[gate];
        float* const to = sums.data() + (t * H + h) * Dv;
        for (Index d = 0; d < Dv; ++d) {
          const float x = factor * part.at(0, t, h)[d];
          to[d] = any ? to[d] + x : x;  // 0 + x would turn -0 to 0
        }
      }
    any = true;
  };

  if (used(0)) {
    gqa::attention(executor, q, compressed_.layer(0), part, ended, how);
    for (Index t = 0; t < q.tokens; ++t)
      read.compressed += static_cast<double>(ended.visible(first + t).size());
    add(0);
  }
  if (used(1)) {
    read.selected += attend_selected(executor, q, part);
    add(1);
  }
  if (used(2)) {
    gqa::attention(executor, q, window_.layer(0), part, gqa::sliding_window(config_.window), how);
    for (Index t = 0; t < q.tokens; ++t)
      read.window += static_cast<double>(std::min(config_.window, first + t + 1));
    add(2);
  }
  for (Index t = 0; t < q.tokens; ++t) {
    read.all += static_cast<double>(first + t + 1);
    for (Index h = 0; h < H; ++h) std::copy_n(sums.data() + (t * H + h) * Dv, Dv, out.at(0, t, h));
  }
}

/// Each query selects for itself, so each is a call. Returns how many keys they read.
double NativeSparse::attend_selected(gqa::PoolExecutor executor, const Tokens& q,
                                     const gqa::TensorView<float>& out) {
  const Index G = config_.num_kv_heads, group = config_.num_q_heads / G, first = size() - q.tokens;
  const Index blocks = compressed_.size();
  std::vector<double> importance(static_cast<std::size_t>(q.tokens * G * blocks));
  Index token = 0;
  if (blocks > 0)
    gqa::for_probabilities(
        executor, q, compressed_.layer(0), {},
        [&](const gqa::ProbabilityRows& p) {
          for (Index t = 0; t < p.num_tokens; ++t, ++token)
            for (Index h = 0; h < p.num_heads; ++h) {
              const std::span<const float> row = p.row(t, h);
              double* const to = importance.data() + (token * G + h / group) * blocks;
              for (std::size_t i = 0; i < row.size(); ++i) to[i] += static_cast<double>(row[i]);
            }
        },
        EndedBlocks(config_.block, config_.stride),
        gqa::AttentionOptions{.scale = config_.scale, .q_offset = first});

  double read = 0;
  for (Index t = 0; t < q.tokens; ++t) {
    const Index position = first + t;
    last_selection_ = select(position, std::span(importance)
                                           .subspan(static_cast<std::size_t>(t * G * blocks),
                                                    static_cast<std::size_t>(G * blocks)));
    gqa::attention(
        executor, rows(q, t, t + 1), all_.layer(0), rows(out, t, t + 1), *last_selection_ & gqa::causal(),
        gqa::AttentionOptions{.scale = config_.scale, .q_offset = position, .workspace = &workspace_});
    // The newest page is always read, as far as it is there.
    const Index missing = (position / config_.page + 1) * config_.page - (position + 1);
    Index pages = 0;
    for (Index g = 0; g < G; ++g) pages += last_selection_->count(g);
    read += static_cast<double>(pages * config_.page) / static_cast<double>(G) - static_cast<double>(missing);
  }
  return read;
}

/// `importance` of each KV head's compressed keys: G x blocks.
gqa::PageSelection NativeSparse::select(Index position, std::span<const double> importance) const {
  const Index G = config_.num_kv_heads, pages = position / config_.page + 1;
  const Index blocks = std::ssize(importance) / G;
  const Index page_strides = config_.page / config_.stride, block_strides = config_.block / config_.stride;
  gqa::PageSelection selection(config_.num_q_heads, G, pages, config_.page);
  for (Index g = 0; g < G; ++g) {
    std::vector<double> worth(static_cast<std::size_t>(pages));
    for (Index i = 0; i < blocks; ++i)
      for (Index s = i; s < i + block_strides; ++s)
        if (s / page_strides < pages)
          worth[static_cast<std::size_t>(s / page_strides)] +=
              importance[static_cast<std::size_t>(g * blocks + i)];
    constexpr double always = 1e9;  // more than all probabilities together
    worth[0] = always;
    for (Index p = std::max<Index>(0, pages - 2); p < pages; ++p) worth[static_cast<std::size_t>(p)] = always;
    std::vector<Index> order(worth.size());
    std::iota(order.begin(), order.end(), Index{0});
    std::ranges::stable_sort(order, std::greater<>(),
                             [&](Index p) { return worth[static_cast<std::size_t>(p)]; });
    for (Index i = 0; i < std::min(config_.pages, pages); ++i)
      selection.add(g, order[static_cast<std::size_t>(i)]);
  }
  return selection;
}

void attend_to_both(gqa::PoolExecutor executor, const Tokens& q, const gqa::KVCache<float>::View& keys,
                    const gqa::PageSelection& selection, Index window, double scale,
                    const gqa::TensorView<float>& out) {
  const gqa::AttentionOptions how{.scale = scale};
  gqa::OnlineSoftmax<float> near(q.heads, out.dim), far(q.heads, out.dim);
  gqa::attention(executor, q, keys, out, gqa::sliding_window(window), gqa::state_into(near), how);
  gqa::attention(executor, q, keys, out, selection & gqa::causal() & !gqa::sliding_window(window),
                 gqa::state_into(far), how);
  near.merge(far);
  const std::vector<float> merged = near.output();
  for (Index h = 0; h < q.heads; ++h) std::copy_n(merged.data() + h * out.dim, out.dim, out.at(0, 0, h));
}

}  // namespace native_sparse
