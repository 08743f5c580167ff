// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

#include "gqa/score/score_fn.hpp"

namespace gqa {

/// Score functions applied by stage, within a stage in the order written. `ScoreChain<>` changes nothing.
template <ScoreMod... Mods>
class ScoreChain {
 public:
  constexpr explicit ScoreChain(Mods... mods) requires(sizeof...(Mods) > 0) : mods_(std::move(mods)...) {}
  constexpr ScoreChain() requires(sizeof...(Mods) == 0) = default;
  constexpr explicit ScoreChain(std::tuple<Mods...> mods) requires(sizeof...(Mods) > 0)
      : mods_(std::move(mods)) {}

  template <class Acc>
  void mod(std::span<Acc> scores, const ScoreRow& at) const {
    in_order([&](const auto& m) { m.mod(scores, at); });
  }

  /// `mod` up to and with a stage.
  template <class Acc>
  void mod_until(ScoreStage last, std::span<Acc> scores, const ScoreRow& at) const {
    in_order([&]<class M>(const M& m) { detail::mod_until(m, last, scores, at); });
  }

  /// The way back, by the chain rule: gradients `d` by what mod() makes of the scores become gradients by the
  /// scores. Parameters are summed up in the order their functions act.
  template <class Acc>
  void pull_back(std::span<const Acc> scores, std::span<Acc> d, const ScoreRow& at,
                 const ParameterSums& sums) const requires(DifferentiableScoreMod<Mods>&&...) {
    if (additive && sums.values.empty()) return;
    for (std::size_t j = 0; j < scores.size(); j += most_at_once) {
      const std::size_t count = std::min(most_at_once, scores.size() - j);
      ScoreRow from = at;
      from.kv_begin += static_cast<Index>(j);
      pull_back_from<0>(scores.subspan(j, count), d.subspan(j, count), from, sums);
    }
  }

  static constexpr bool additive = (detail::is_additive<Mods> && ...);

  Index num_parameters(const AttentionExtent& extent) const {
    Index count = 0;
    in_order([&](const auto& m) { count += detail::num_parameters(m, extent); });
    return count;
  }
  ParametersApart parameters_apart() const {
    ParametersApart apart{true, true, true};
    in_order([&](const auto& m) { apart = apart & detail::parameters_apart(m); });
    return apart;
  }
  void check_derivative() const {
    in_order([](const auto& m) { detail::check_derivative(m); });
  }

  void check(const AttentionExtent& extent) const {
    in_order([&](const auto& m) {
      if constexpr (requires { m.check(extent); }) m.check(extent);
    });
  }

  constexpr const std::tuple<Mods...>& mods() const { return mods_; }

 private:
  static constexpr std::size_t most_at_once = 64;

  /// The functions' numbers in the order they act.
  static constexpr auto order = [] {
    constexpr ScoreStage stages[] = {detail::stage_of<Mods>()..., ScoreStage::bias};
    std::array<std::size_t, sizeof...(Mods)> numbers{};
    std::size_t n = 0;
    for (ScoreStage stage : {ScoreStage::scale, ScoreStage::soft_cap, ScoreStage::bias})
      for (std::size_t i = 0; i < sizeof...(Mods); ++i)
        if (stages[i] == stage) numbers[n++] = i;
    return numbers;
  }();

  /// Function I and those after it; `sums` are theirs.
  template <std::size_t I, class Acc>
  void pull_back_from(std::span<const Acc> scores, std::span<Acc> d, const ScoreRow& at,
                      const ParameterSums& sums) const {
    if constexpr (I < sizeof...(Mods)) {
      const auto& m = std::get<order[I]>(mods_);
      const Index own = sums.values.empty() ? 0 : detail::num_parameters(m, *sums.extent);
      if constexpr (I + 1 < sizeof...(Mods)) {
        Acc memory[most_at_once];
        const std::span<Acc> next(memory, scores.size());
        std::copy(scores.begin(), scores.end(), next.begin());
        m.mod(next, at);
        const Index all = static_cast<Index>(sums.values.size());
        pull_back_from<I + 1>(std::span<const Acc>(next), d, at, sums.part(own, all - own));
      }
      detail::pull_back(m, scores, d, at, sums.part(0, own));
    }
  }

  template <class Visit>
  constexpr void in_order(Visit visit) const {
    visit_stage<ScoreStage::scale>(visit);
    visit_stage<ScoreStage::soft_cap>(visit);
    visit_stage<ScoreStage::bias>(visit);
  }

  template <ScoreStage stage, class Visit>
  constexpr void visit_stage(Visit& visit) const {
    const auto visit_if = [&]<class M>(const M& m) {
      if constexpr (detail::stage_of<M>() == stage) visit(m);
    };
    std::apply([&](const auto&... m) { (visit_if(m), ...); }, mods_);
  }

  std::tuple<Mods...> mods_;
};

/// What attention takes as a score function.
template <class M>
concept ScoreModLike = ScoreMod<M> || ScoreFunction<M>;

/// Any score function as a chain.
template <ScoreModLike M>
constexpr auto as_score_chain(M m) {
  if constexpr (requires { m.mods(); }) {
    return m;
  } else if constexpr (ScoreMod<M>) {
    return ScoreChain<M>(std::move(m));
  } else {
    return ScoreChain<FunctionScoreMod<M>>(score_fn(std::move(m)));
  }
}

/// Both, in the order of their stages whatever the order written: `bias | soft_cap(30)` caps first. Either
/// side may be a lambda `(score, q_head, q_pos, kv_pos) -> score`.
template <class A, class B>
requires(ScoreMod<A> || ScoreMod<B>) && ScoreModLike<A>&& ScoreModLike<B> constexpr auto operator|(A a, B b) {
  auto mods = std::tuple_cat(as_score_chain(std::move(a)).mods(), as_score_chain(std::move(b)).mods());
  return [&]<class... Mods>(std::tuple<Mods...>& all) {
    if constexpr (sizeof...(Mods) == 0) {
      return ScoreChain<>();
    } else {
      return ScoreChain<Mods...>(std::move(all));
    }
  }(mods);
}

}  // namespace gqa
