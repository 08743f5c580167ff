// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include "gqa/core/error.hpp"

namespace gqa::detail {

/// What a cache is apart from its operations: the owner of a state that its views share. Moving takes the
/// state along; what is destroyed, or assigned to, closes its own with `close()`, after which a state holds
/// nothing, and views that outlive the cache say so.
template <class State>
class StateOwner {
 public:
  StateOwner(const StateOwner&) = delete;
  StateOwner& operator=(const StateOwner&) = delete;

 protected:
  explicit StateOwner(std::shared_ptr<State> own) : state_(std::move(own)) {}
  StateOwner(StateOwner&&) noexcept = default;
  StateOwner& operator=(StateOwner&& other) noexcept {
    if (this != &other) {
      close();
      state_ = std::move(other.state_);
    }
    return *this;
  }
  ~StateOwner() { close(); }

  /// Throws std::invalid_argument where there is none.
  State& state(const char* wanted_by) const {
    GQA_CHECK(state_ != nullptr, std::invalid_argument, wanted_by << ": the cache was moved from");
    return *state_;
  }

  std::shared_ptr<State> state_;  // null: moved from

 private:
  void close() noexcept {
    if (state_ != nullptr) state_->close();
  }
};

}  // namespace gqa::detail
