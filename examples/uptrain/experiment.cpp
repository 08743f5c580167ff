// SPDX-License-Identifier: Apache-2.0
#include "experiment.hpp"

#include <algorithm>
#include <chrono>
#include <thread>

#include "checkpoint.hpp"

namespace uptrain {

Experiment::Experiment(const Settings& settings, const Text& text, std::string text_digest,
                       ExperimentOptions options)
    : settings_(settings),
      text_(text),
      text_digest_(std::move(text_digest)),
      options_(std::move(options)),
      measured_on_(validation_batches(text, settings.measured, settings.batch, settings.shape.context)) {
  if (options_.folder) {
    std::filesystem::create_directories(*options_.folder);
    // What processes that were killed had begun to write.
    for (const auto& file : std::filesystem::directory_iterator(*options_.folder))
      if (file.path().extension() == ".tmp") std::filesystem::remove(file.path());
  }
  const Index H = settings_.shape.num_q_heads;
  // Those from scratch first: all others wait for them.
  for (Index seed = 1; seed <= settings_.seeds; ++seed) add(seed, true, std::nullopt, H);
  for (Index seed = 1; seed <= settings_.seeds; ++seed) {
    add(seed, false, std::nullopt, H);
    for (const Index kv_heads : settings_.kv_heads())
      for (const Method method : settings_.methods)
        if (method != Method::clustered || kv_heads > 1)  // one group of all heads is that of aligned
          add(seed, false, method, kv_heads);
  }
}

void Experiment::add(Index seed, bool from_scratch, std::optional<Method> method, Index kv_heads) {
  Task task{.seed = seed,
            .from_scratch = from_scratch,
            .method = method,
            .kv_heads = kv_heads,
            .recipe = {},
            .training = {}};
  Recipe& recipe = task.recipe;
  recipe.name = "seed-" + std::to_string(seed) + "-";
  if (from_scratch)
    recipe.name += "scratch";
  else
    recipe.name +=
        (method ? std::string(name_of(*method)) : std::string("mha")) + "-g" + std::to_string(kv_heads);
  recipe.seed = static_cast<std::uint64_t>(seed);
  recipe.batch = settings_.batch;
  if (from_scratch) {
    recipe.steps = settings_.steps;
    recipe.rate = settings_.rate;
    recipe.measured_at = {settings_.steps};
  } else {
    recipe.first_batch = settings_.steps;
    recipe.rate = settings_.uptraining_rate;
    recipe.measured_at = {0};
    if (method != Method::low_rank) {
      recipe.steps = settings_.uptraining_steps();
      for (const double share : settings_.shares) recipe.measured_at.push_back(settings_.steps_of(share));
    }
  }
  recipe.warm_up = recipe.steps / 20;
  load(task);
  tasks_.push_back(std::move(task));
}

std::string Experiment::identity(const Task& task) const {
  auto settings = settings_.json();
  // Other tasks do not change this one.
  settings.erase("seeds");
  settings.erase("methods");
  if (task.from_scratch)
    for (const char* name : {"shares", "uptraining_rate", "calibration_batches"}) settings.erase(name);
  return task.recipe.name + " " + settings.dump() + " " + text_digest_;
}

std::filesystem::path Experiment::checkpoint(const Task& task) const {
  return *options_.folder / (task.recipe.name + ".checkpoint");
}

void Experiment::load(Task& task) {
  if (!options_.folder) return;
  if (auto training = load_checkpoint(checkpoint(task), identity(task))) task.training = std::move(*training);
  task.done = task.training.losses.size() == task.recipe.measured_at.size();
  task.reported = task.training.step;
}

const Experiment::Task& Experiment::base_of(const Task& task) const {
  return tasks_[static_cast<std::size_t>(task.seed - 1)];
}

Experiment::Task* Experiment::take(const std::function<bool()>& goes_on) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (failure_ || !goes_on()) return nullptr;
    bool waits = false;
    for (Task& task : tasks_) {
      if (task.taken || task.done) continue;
      if (task.from_scratch || base_of(task).done) {
        task.taken = true;
        return &task;
      }
      waits = true;
    }
    if (!waits) return nullptr;
    changed_.wait(lock);
  }
}

void Experiment::execute(Task& task, const std::function<bool()>& goes_on) {
  Training& training = task.training;
  const Shape mha = settings_.shape.with_kv_heads(settings_.shape.num_q_heads);
  std::optional<Folding> folding;
  if (task.method == Method::weighted) folding.emplace(mha, task.kv_heads);
  if (training.parameters.empty()) {
    if (task.from_scratch) {
      training.parameters = initial_parameters(mha, task.recipe.seed);
    } else if (!task.method) {
      training.parameters = base_of(task).training.parameters;
    } else if (folding) {
      training.parameters = folding->initial(base_of(task).training.parameters);
    } else {
      const auto& parameters = base_of(task).training.parameters;
      Transformer<float> model(mha);
      std::vector<Batch> batches;  // of those it learned from
      for (Index i = 1; i <= settings_.calibrated; ++i)
        batches.push_back(
            training_batch(text_, settings_.batch, settings_.shape.context, task.recipe.seed, i));
      training.parameters = convert(mha, parameters, *task.method, task.kv_heads,
                                    calibrate(model, parameters, batches), task.recipe.seed)
                                .parameters;
    }
  }
  Transformer<float> model(task.method == Method::low_rank ? mha : mha.with_kv_heads(task.kv_heads));
  const auto save = [&] {
    if (options_.folder) save_checkpoint(checkpoint(task), identity(task), training);
  };
  auto saved = std::chrono::steady_clock::now();
  train(
      model, text_, measured_on_, task.recipe, training,
      [&] {
        {
          const std::lock_guard lock(mutex_);
          task.reported = training.step;
          if (failure_) return false;
        }
        const auto now = std::chrono::steady_clock::now();
        if (std::chrono::duration<double>(now - saved).count() >= options_.checkpoint_seconds) {
          save();
          saved = now;
        }
        return goes_on();
      },
      folding ? &*folding : nullptr);
  const bool done = training.losses.size() == task.recipe.measured_at.size();
  if (done) {
    training.moments = {};
    if (!task.from_scratch) training.parameters = {};
  }
  save();
  const std::lock_guard lock(mutex_);
  task.reported = training.step;
  task.done = done;
}

void Experiment::work(const std::function<bool()>& goes_on) {
  try {
    while (Task* const task = take(goes_on)) {
      execute(*task, goes_on);
      changed_.notify_all();
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
  }
  const std::lock_guard lock(mutex_);
  --busy_;
  changed_.notify_all();
}

bool Experiment::run(const std::function<void(double)>& show, const std::function<bool()>& goes_on) {
  busy_ = options_.threads;
  std::vector<std::jthread> threads;
  for (Index i = 0; i < options_.threads; ++i) threads.emplace_back([&] { work(goes_on); });
  {
    std::unique_lock lock(mutex_);
    while (busy_ > 0) {
      Index done = 0, all = 0;
      for (const Task& task : tasks_) {
        done += task.reported;
        all += task.recipe.steps;
      }
      lock.unlock();
      show(static_cast<double>(done) / static_cast<double>(all));
      lock.lock();
      changed_.wait_for(lock, std::chrono::milliseconds(100), [&] { return busy_ == 0; });
      changed_.notify_all();  // a thread that waits for a task asks whether it still should
    }
  }
  threads.clear();
  if (failure_) std::rethrow_exception(failure_);
  return std::ranges::all_of(tasks_, [](const Task& task) { return task.done; });
}

Index Experiment::cache_elements(const Task& task) const {
  const Shape mha = settings_.shape.with_kv_heads(settings_.shape.num_q_heads);
  const Index heads = mha.with_kv_heads(task.kv_heads).cache_elements();
  // A latent vector is never longer than what it is made from.
  return task.method == Method::low_rank ? std::min(heads, mha.layers * mha.width) : heads;
}

void Experiment::fill(Results& results) const {
  for (const Task& task : tasks_) {
    if (task.from_scratch)
      results.base.push_back(task.training.losses.back());
    else
      results.runs.push_back({.seed = task.seed,
                              .method = task.method,
                              .kv_heads = task.kv_heads,
                              .cache_elements = cache_elements(task),
                              .losses = task.training.losses});
  }
}

}  // namespace uptrain
