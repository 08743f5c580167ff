// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "gqa/score/score_chain.hpp"

namespace gqa {

/// Any score function behind one type, for those chosen at run time (a model's file says whether it
/// soft-caps). A copy shares what it holds; a call is virtual, once a row. In a chain it stands at the stage
/// of biases. Whether it has a derivative is known at run time: attention_backward throws
/// std::invalid_argument where it has none.
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
  template <class Acc>
  void pull_back(std::span<const Acc> scores, std::span<Acc> d, const ScoreRow& at,
                 const ParameterSums& sums) const {
    mod_->pull_back(scores, d, at, sums);
  }
  Index num_parameters(const AttentionExtent& extent) const { return mod_->num_parameters(extent); }
  ParametersApart parameters_apart() const { return mod_->parameters_apart(); }
  void check_derivative() const { mod_->check_derivative(); }
  void check(const AttentionExtent& extent) const { mod_->check(extent); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual void mod(std::span<float> scores, const ScoreRow& at) const = 0;
    virtual void mod(std::span<double> scores, const ScoreRow& at) const = 0;
    virtual void mod_until(ScoreStage last, std::span<float> scores, const ScoreRow& at) const = 0;
    virtual void mod_until(ScoreStage last, std::span<double> scores, const ScoreRow& at) const = 0;
    virtual void pull_back(std::span<const float> scores, std::span<float> d, const ScoreRow& at,
                           const ParameterSums& sums) const = 0;
    virtual void pull_back(std::span<const double> scores, std::span<double> d, const ScoreRow& at,
                           const ParameterSums& sums) const = 0;
    virtual Index num_parameters(const AttentionExtent& extent) const = 0;
    virtual ParametersApart parameters_apart() const = 0;
    virtual void check_derivative() const = 0;
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
    void pull_back(std::span<const float> scores, std::span<float> d, const ScoreRow& at,
                   const ParameterSums& sums) const override {
      if constexpr (DifferentiableScoreMod<Chain>) chain.pull_back(scores, d, at, sums);
    }
    void pull_back(std::span<const double> scores, std::span<double> d, const ScoreRow& at,
                   const ParameterSums& sums) const override {
      if constexpr (DifferentiableScoreMod<Chain>) chain.pull_back(scores, d, at, sums);
    }
    Index num_parameters(const AttentionExtent& extent) const override {
      return chain.num_parameters(extent);
    }
    ParametersApart parameters_apart() const override { return chain.parameters_apart(); }
    void check_derivative() const override {
      GQA_CHECK(DifferentiableScoreMod<Chain>, std::invalid_argument,
                "AnyScoreMod: a score function without a derivative, expected score_fn(f, derivative)");
      chain.check_derivative();
    }
    void check(const AttentionExtent& extent) const override { chain.check(extent); }
    Chain chain;
  };

  std::shared_ptr<const Interface> mod_;
};

}  // namespace gqa
