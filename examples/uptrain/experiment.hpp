// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <exception>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "conversion.hpp"
#include "results.hpp"
#include "training.hpp"

namespace uptrain {

struct ExperimentOptions {
  /// Where checkpoints are kept; none: nowhere. One experiment at a time has it to itself.
  std::optional<std::filesystem::path> folder;
  double checkpoint_seconds = 20;  ///< between those of one training
  Index threads = 1;
};

/// MHA models trained from scratch, one a seed; each converted by every method to every number of KV heads,
/// and uptrained; and trained on as it is, for comparison. Each of these trainings is one task, on one
/// thread: no bit depends on how many run beside it, or on how often all were stopped and went on from
/// checkpoints.
class Experiment {
 public:
  /// Reads the checkpoints there are. Throws as load_checkpoint does, and where the folder cannot be made.
  Experiment(const Settings& settings, const Text& text, std::string text_digest, ExperimentOptions options);

  /// Until all is done, or `goes_on` says no: then false, and checkpoints hold what has been done. `show`
  /// gets the part done, by steps, from this thread; `goes_on` is asked from any. Throws what a task does,
  /// after all others have stopped.
  bool run(const std::function<void(double)>& show, const std::function<bool()>& goes_on);

  /// After run() has returned true: losses of the MHA models, and the others'.
  void fill(Results& results) const;

 private:
  struct Task {
    Index seed = 0;
    bool from_scratch = false;
    std::optional<Method> method;
    Index kv_heads = 0;
    Recipe recipe;
    Training training;
    bool taken = false, done = false;
    Index reported = 0;  // steps
  };

  Index cache_elements(const Task& task) const;
  std::string identity(const Task& task) const;
  std::filesystem::path checkpoint(const Task& task) const;
  void add(Index seed, bool from_scratch, std::optional<Method> method, Index kv_heads);
  void load(Task& task);
  const Task& base_of(const Task& task) const;
  /// The next one to do, or nothing: waits where that depends on one which is being done.
  Task* take(const std::function<bool()>& goes_on);
  void work(const std::function<bool()>& goes_on);
  void execute(Task& task, const std::function<bool()>& goes_on);

  Settings settings_;
  const Text& text_;
  std::string text_digest_;
  ExperimentOptions options_;
  std::vector<Batch> measured_on_;
  std::vector<Task> tasks_;

  mutable std::mutex mutex_;  // of what tasks say of themselves, and what follows
  std::condition_variable changed_;
  std::exception_ptr failure_;
  Index busy_ = 0;  // threads
};

}  // namespace uptrain
