// SPDX-License-Identifier: Apache-2.0
#include "experiment.hpp"

#include <algorithm>
#include <memory>
#include <numeric>
#include <unsupported/Eigen/CXX11/Tensor>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "gqa/attention.hpp"
#include "gqa/core/error.hpp"
#include "gqa/mask/window.hpp"
#include "log_sum_exp.hpp"

namespace read_less {
namespace {

template <class T>
gqa::TensorView<T> rows(const gqa::TensorView<T>& x, Index begin, Index end) {
  return {
      x.at(0, begin, 0), {1, end - begin, x.heads, x.dim}, {x.batch_stride, x.token_stride, x.head_stride}};
}

/// Several readers of the same tokens, fed together: a row of each pass is one reader's.
class Race {
 public:
  explicit Race(generate::Forward& forward) : forward_(forward) {}

  void add(std::unique_ptr<Reader> reader) { readers_.push_back(std::move(reader)); }

  struct Finish {
    double bytes_read = 0, mean_negative_log = 0;
    Index bytes_held = 0;
  };
  std::vector<Finish> run(std::span<const TokenId> text, Index first, const std::function<void()>& step) {
    std::vector<Finish> finishes(readers_.size());
    const Index end = std::ssize(text) - 1;
    for (Index t = first; t < end; ++t) {
      feed(text[static_cast<std::size_t>(t)], t);
      const generate::Matrix& scores = forward_.last_logits(std::ssize(readers_));
      const TokenId next = text[static_cast<std::size_t>(t + 1)];
      for (std::size_t i = 0; i < readers_.size(); ++i) {
        const auto row = scores.row(static_cast<Index>(i));
        finishes[i].mean_negative_log += generate::log_sum_exp(row) - static_cast<double>(row[next]);
        finishes[i].bytes_held = std::max(finishes[i].bytes_held, readers_[i]->bytes_held());
      }
      step();
    }
    const auto count = static_cast<double>(end - first);
    for (std::size_t i = 0; i < readers_.size(); ++i) {
      finishes[i].mean_negative_log /= count;
      finishes[i].bytes_read = readers_[i]->bytes_read() / count;
    }
    return finishes;
  }

 private:
  void feed(TokenId token, Index position) {
    for (const auto& reader : readers_) reader->extend();
    const std::vector<TokenId> tokens(readers_.size(), token);
    const std::vector<Index> positions(readers_.size(), position);
    forward_.run(tokens, positions,
                 [&](Index layer, const auto& q, const auto& k, const auto& v, const auto& out) {
                   for (std::size_t i = 0; i < readers_.size(); ++i) {
                     const auto row = static_cast<Index>(i);
                     readers_[i]->attend(layer, rows(q, row, row + 1), rows(k, row, row + 1),
                                         rows(v, row, row + 1), rows(out, row, row + 1));
                   }
                 });
  }

  generate::Forward& forward_;
  std::vector<std::unique_ptr<Reader>> readers_;
};

/// The prompt, some tokens at a time.
Prompt read_prompt(generate::Forward& forward, gqa::PoolExecutor executor, std::span<const TokenId> tokens,
                   const Settings& settings, const std::function<void(double)>& progress) {
  constexpr Index step = 256;
  const generate::Hyperparameters& sizes = forward.sizes();
  const std::vector<gqa::AttentionMass> none(static_cast<std::size_t>(sizes.num_layers),
                                             {sizes.num_q_heads, sizes.num_kv_heads});
  Prompt prompt{.cache = gqa::KVCache<float>({.max_tokens = settings.num_tokens(),
                                              .num_layers = sizes.num_layers,
                                              .num_kv_heads = sizes.num_kv_heads,
                                              .head_dim = sizes.head_dim,
                                              .value_dim = sizes.value_dim}),
                .mass = none,
                .last_mass = none};
  const bool looks = std::ranges::count(settings.methods, Method::h2o) > 0;
  gqa::Workspace workspace;
  const Index n = std::ssize(tokens);
  for (Index begin = 0; begin < n; begin += step) {
    progress(static_cast<double>(begin) / static_cast<double>(n));
    const Index end = std::min(begin + step, n);
    std::vector<Index> positions(static_cast<std::size_t>(end - begin));
    std::iota(positions.begin(), positions.end(), begin);
    const gqa::Span span = prompt.cache.extend(end - begin);
    const gqa::AttentionOptions how{.scale = sizes.attention_scale, .workspace = &workspace};
    forward.run(tokens.subspan(static_cast<std::size_t>(begin), positions.size()), positions,
                [&](Index layer, const auto& q, const auto& k, const auto& v, const auto& out) {
                  prompt.cache.write(layer, span, k, v);
                  const auto view = prompt.cache.layer(layer);
                  gqa::attention(executor, q, view, out, gqa::causal(), how);
                  const auto look = [&](gqa::AttentionMass& mass, Index from) {
                    gqa::for_probabilities(
                        executor, rows(q, from, end - begin), view, {}, [&](const auto& p) { mass.add(p); },
                        gqa::causal(), gqa::AttentionOptions{.scale = sizes.attention_scale});
                  };
                  const auto i = static_cast<std::size_t>(layer);
                  if (looks) look(prompt.mass[i], 0);
                  if (end > n - settings.window)
                    look(prompt.last_mass[i], std::max<Index>(0, n - settings.window - begin));
                });
  }
  return prompt;
}

/// Most tokens of which nothing is dropped before the queries that choose are there.
void check_keep(Method method, Index keep, const Settings& settings, const generate::Hyperparameters& sizes) {
  const auto least = [&](Index tokens, const char* what) {
    GQA_CHECK(
        keep >= tokens, std::invalid_argument,
        "--keep " << keep << " with " << name_of(method) << ", expected at least " << tokens << ": " << what);
  };
  switch (method) {
    case Method::recent:
      return least(settings.window + std::max<Index>(settings.sinks, 1),
                   "the sinks, and a window that is dropped at once");
    case Method::h2o:
      return least(settings.window + 1, "a token, and a window that is dropped at once");
    case Method::snapkv:
      return least(2 * settings.window, "the window, and as many that are dropped at once");
    case Method::pages:
      break;
  }
  Index enough = keep;
  while (enough < settings.num_tokens() &&
         pages_within(enough, settings, sizes.head_dim, sizes.value_dim) < least_pages())
    ++enough;
  least(enough, "a page of 64, the first one, the last two, and the bounds of all");
}

}  // namespace

void check(const Settings& settings, const generate::Hyperparameters& sizes, Index text_tokens) {
  GQA_CHECK(!sizes.has_windows(), std::invalid_argument,
            "the model has a sliding window in some layers, expected one that sees all tokens in each");
  GQA_CHECK(settings.num_tokens() <= sizes.context_length, std::invalid_argument,
            "--prompt and --tokens are " << settings.num_tokens()
                                         << " tokens, expected at most the model's context of "
                                         << sizes.context_length);
  GQA_CHECK(text_tokens > settings.num_tokens(), std::invalid_argument,
            "the text has " << text_tokens << " tokens, expected at least " << settings.num_tokens() + 1
                            << ": --prompt, --tokens and one after them");
  GQA_CHECK(settings.pool % 2 == 1, std::invalid_argument,
            "--pool is " << settings.pool << ", expected an odd number");
  for (const Index keep : settings.keep) {
    GQA_CHECK(keep >= 1 && keep <= settings.num_tokens(), std::invalid_argument,
              "--keep is " << keep << ", expected 1 to the " << settings.num_tokens()
                           << " tokens of --prompt and --tokens, or all");
    if (keep == settings.num_tokens()) continue;  // nothing is left out
    for (const Method method : settings.methods) check_keep(method, keep, settings, sizes);
  }
}

Results measure(const generate::Model& model, gqa::PoolExecutor executor, std::span<const TokenId> tokens,
                const Settings& settings, const std::function<void(double)>& progress) {
  const generate::Hyperparameters& sizes = model.sizes;
  check(settings, sizes, std::ssize(tokens));
  tokens = tokens.first(static_cast<std::size_t>(settings.num_tokens() + 1));
  generate::Forward forward(model, executor);
  const auto tell = [&](double done) {
    if (progress) progress(done);
  };
  // A pass of some rows takes about as long as a few tokens of the prompt do.
  const double of_prompt = static_cast<double>(settings.prompt) / 8;
  const double all = of_prompt + static_cast<double>(settings.tokens * (1 + std::ssize(settings.keep)));
  const Prompt prompt =
      read_prompt(forward, executor, tokens.first(static_cast<std::size_t>(settings.prompt)), settings,
                  [&](double done) { tell(done * of_prompt / all); });
  double done = of_prompt;
  const auto step = [&] { tell(++done / all); };

  Race full(forward);
  full.add(make_reader(prompt, executor, sizes.attention_scale));
  const Race::Finish best = full.run(tokens, settings.prompt, step)[0];
  Results results{.settings = settings,
                  .full_bytes_read = best.bytes_read,
                  .full_mean_negative_log = best.mean_negative_log,
                  .full_bytes_held = best.bytes_held,
                  .token_bytes = prompt.cache.bytes_per_token(),
                  .runs = {}};
  for (const Index keep : settings.keep) {
    Race race(forward);
    for (const Method method : settings.methods)
      race.add(
          make_reader(method, keep, settings, prompt, sizes.num_q_heads, executor, sizes.attention_scale));
    const std::vector<Race::Finish> finishes = race.run(tokens, settings.prompt, step);
    for (std::size_t i = 0; i < finishes.size(); ++i)
      results.runs.push_back({.method = settings.methods[i],
                              .keep = keep,
                              .bytes_read = finishes[i].bytes_read,
                              .bytes_held = finishes[i].bytes_held,
                              .mean_negative_log = finishes[i].mean_negative_log});
  }
  return results;
}

}  // namespace read_less
