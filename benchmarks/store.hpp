// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "rows.hpp"

namespace bench {

/// Keeps subjects between rows and repetitions, as building one takes longer than timing it, and lets go of
/// those unused for longest when memory runs short.
class Store {
 public:
  explicit Store(const Machine& machine) : budget_(static_cast<double>(machine.free_memory()) / 2) {}

  Subject& subject(const Row& row) {
    const auto found = std::ranges::find(kept_, row.memory_key, &Kept::key);
    if (found != kept_.end()) {
      kept_.splice(kept_.begin(), kept_, found);
    } else {
      double held = row.memory;
      for (const Kept& kept : kept_) held += kept.bytes;
      for (; !kept_.empty() && held > budget_; kept_.pop_back()) held -= kept_.back().bytes;
      kept_.push_front({row.memory_key, row.memory, row.make()});
    }
    return *kept_.front().subject;
  }

  /// Compares with the oracle, once for a row.
  std::string check(const Row& row, Subject& subject) {
    const auto found = checked_.find(row.name);
    if (found != checked_.end()) return found->second;
    return checked_[row.name] = subject.check(pool(row.threads));
  }

  /// Null for one thread: such rows run on the calling thread.
  Eigen::ThreadPool* pool(int threads) {
    if (threads == 1) return nullptr;
    auto& pool = pools_[threads];
    if (!pool) pool = std::make_unique<Eigen::ThreadPool>(threads);
    return pool.get();
  }

 private:
  struct Kept {
    std::string key;
    double bytes;
    std::unique_ptr<Subject> subject;
  };
  double budget_;
  std::list<Kept> kept_;  ///< last used first
  std::map<std::string, std::string> checked_;
  std::map<int, std::unique_ptr<Eigen::ThreadPool>> pools_;
};

}  // namespace bench
