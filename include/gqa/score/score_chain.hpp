// SPDX-License-Identifier: Apache-2.0
#pragma once

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

  /// `mod`, and `slopes[j]` times the derivative of the whole chain, by the chain rule.
  template <class Acc>
  void mod_with_slopes(std::span<Acc> scores, std::span<Acc> slopes, const ScoreRow& at) const {
    in_order([&]<class M>(const M& m) {
      static_assert(DifferentiableScoreMod<M>,
                    "gqa: a score function without a derivative; give score_fn(f, derivative)");
      if constexpr (!detail::is_additive<M>) m.differentiate(std::span<const Acc>(scores), slopes, at);
      m.mod(scores, at);
    });
  }

  void check(const AttentionExtent& extent) const {
    in_order([&](const auto& m) {
      if constexpr (requires { m.check(extent); }) m.check(extent);
    });
  }

  constexpr const std::tuple<Mods...>& mods() const { return mods_; }

 private:
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
