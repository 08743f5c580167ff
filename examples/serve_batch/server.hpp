// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "batch.hpp"
#include "continuation.hpp"
#include "sampler.hpp"
#include "scheduler.hpp"

namespace serve_batch {

using generate::TokenId;

/// A text to continue.
struct Request {
  std::vector<TokenId> prompt;
  Index arrival = 0;  ///< the first pass it could take part in
};

struct Settings {
  Index samples = 1;  ///< texts a request
  Index max_tokens = 64;
  double temperature = 0;
  Index top_k = 40;
  std::uint64_t seed = 0;
  Index num_pages = 64;
  Scheduler::Limits limits = {};

  /// Sample j of request i makes its choices as a run alone with this seed does.
  std::uint64_t seed_of(Index sequence) const { return seed + static_cast<std::uint64_t>(sequence); }
  generate::Sampler sampler_of(Index sequence) const { return {temperature, top_k, seed_of(sequence)}; }
};

/// What a server has come to, for whoever shows it.
struct Service {
  struct Sequence {
    generate::Sampler sampler;
    generate::Continuation continuation;
    gqa::SequenceId id = {};  ///< while it is in the cache
    Index fed = 0;            ///< tokens that went through the model, those found included
    Index swaps = 0;
    Scheduler::Sequence::State state = Scheduler::Sequence::State::waiting;
  };
  struct Request {
    Index prompt_tokens = 0;
    Index arrival = 0;
    double arrived = 0;         ///< seconds from the server's start
    Index found = 0;            ///< tokens of the prompt that others had read
    double first_seconds = -1;  ///< from its arrival to its first tokens; below 0: there are none yet
    double seconds = 0;         ///< and to its last ones
  };

  Index samples = 1;                ///< a request
  std::vector<Request> requests;    ///< those that have arrived
  std::vector<Sequence> sequences;  ///< of each request in turn
  Index passes = 0;                 ///< of the model
  Index fed_tokens = 0;             ///< in all passes
  Index most_at_once = 0;           ///< sequences in one pass
  double seconds = 0;
  Index swapped_bytes = 0;  ///< written to memory, in all
  gqa::PageStatistics pages = {};
  Index most_used = 0, most_shared = 0;  ///< pages

  Index chosen_tokens() const {
    Index sum = 0;
    for (const Sequence& s : sequences) sum += std::ssize(s.continuation.ids());
    return sum;
  }
  double rate() const { return seconds > 0 ? static_cast<double>(chosen_tokens()) / seconds : 0; }
};

/// Continues the texts of many requests together: each pass of the model takes a token of every sequence that
/// decodes and pieces of the prompts of new ones. Prompts that begin alike are read once, samples are forks
/// of their prompt, and where the pages run out the youngest sequences wait in the caller's memory. Each text
/// is the one it is alone.
template <gqa::Scalar T>
class Server final : private Pages {
 public:
  /// The model and the tokenizer must outlive it. Throws std::invalid_argument for requests that are not in
  /// the order of their arrivals and those that could not be served alone.
  Server(const generate::Model& model, const generate::Tokenizer& tokenizer, gqa::PoolExecutor executor,
         std::vector<Request> requests, const Settings& settings);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Makes a pass. Whether there is anything left to do.
  bool step();
  /// Leaves every text as it is.
  void interrupt();

  const Service& service() const { return service_; }
  const gqa::PagedCache<T>& cache() const { return batch_.cache(); }

 private:
  using Clock = std::chrono::steady_clock;

  Index total() const override { return batch_.cache().statistics().pages; }
  Index page_tokens() const override { return batch_.cache().page_tokens(); }
  Index available() const override;
  Index begin(Index sequence) override;
  void fork(Index parent, Index child) override;
  void swap_out(Index sequence) override;
  void swap_in(Index sequence) override;
  void end(Index sequence) override;

  Index most_tokens(const Request& request) const;
  void arrive();
  void publish(const Scheduler::Share& share);
  void choose(const std::vector<Scheduler::Share>& shares);
  void note_pass(const std::vector<Scheduler::Share>& shares);
  void note_state();

  std::span<const TokenId> tokens_of(const Scheduler::Share& share) const;
  std::size_t request_of(Index sequence) const {
    return static_cast<std::size_t>(sequence / settings_.samples);
  }
  const std::vector<TokenId>& prompt_of(Index sequence) const {
    return requests_[request_of(sequence)].prompt;
  }
  const Scheduler::Sequence& scheduled(Index sequence) const {
    return scheduler_.sequences()[static_cast<std::size_t>(sequence)];
  }
  Service::Sequence& at(Index sequence) { return service_.sequences[static_cast<std::size_t>(sequence)]; }
  const Service::Sequence& at(Index sequence) const {
    return service_.sequences[static_cast<std::size_t>(sequence)];
  }
  double now() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  const generate::Tokenizer& tokenizer_;
  Index context_length_;
  std::vector<Request> requests_;
  Settings settings_;
  generate::Batch<T> batch_;
  Scheduler scheduler_;
  std::vector<std::vector<std::byte>> memory_;  // of the sequences that are swapped out
  Clock::time_point start_ = Clock::now();
  Index time_ = 0;  // passes, and those that nobody was there for
  Service service_;
};

extern template class Server<float>;
extern template class Server<gqa::half>;
extern template class Server<gqa::bfloat16>;

}  // namespace serve_batch
