// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "gqa/score/score_chain.hpp"

namespace gqa {

/// Any score function behind one type, for those chosen at run time (a model's file says whether it
/// soft-caps). A copy shares what it holds; a call is virtual, once a row. In a chain it stands at the stage
/// of biases.
class AnyScoreMod {
 public:
  template <class M>
  requires(!std::same_as<M, AnyScoreMod> && ScoreModLike<M>) AnyScoreMod(M m)  // NOLINT: converts on purpose
      : mod_(std::make_shared<const Model<decltype(as_score_chain(std::declval<M>()))>>(
            as_score_chain(std::move(m)))) {}

  template <class Acc>
  void mod(std::span<Acc> scores, const ScoreRow& at) const {
    mod_->mod(scores, at);
  }
  template <class Acc>
  void mod_until(ScoreStage last, std::span<Acc> scores, const ScoreRow& at) const {
    mod_->mod_until(last, scores, at);
  }
  void check(const AttentionExtent& extent) const { mod_->check(extent); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual void mod(std::span<float> scores, const ScoreRow& at) const = 0;
    virtual void mod(std::span<double> scores, const ScoreRow& at) const = 0;
    virtual void mod_until(ScoreStage last, std::span<float> scores, const ScoreRow& at) const = 0;
    virtual void mod_until(ScoreStage last, std::span<double> scores, const ScoreRow& at) const = 0;
    virtual void check(const AttentionExtent& extent) const = 0;
  };

  template <class Chain>
  struct Model final : Interface {
    explicit Model(Chain c) : chain(std::move(c)) {}
    void mod(std::span<float> scores, const ScoreRow& at) const override { chain.mod(scores, at); }
    void mod(std::span<double> scores, const ScoreRow& at) const override { chain.mod(scores, at); }
    void mod_until(ScoreStage last, std::span<float> scores, const ScoreRow& at) const override {
      chain.mod_until(last, scores, at);
    }
    void mod_until(ScoreStage last, std::span<double> scores, const ScoreRow& at) const override {
      chain.mod_until(last, scores, at);
    }
    void check(const AttentionExtent& extent) const override { chain.check(extent); }
    Chain chain;
  };

  std::shared_ptr<const Interface> mod_;
};

}  // namespace gqa
