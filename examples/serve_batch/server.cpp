// SPDX-License-Identifier: Apache-2.0
#include "server.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "generation.hpp"

namespace serve_batch {

using generate::Piece;
using Share = Scheduler::Share;

template <gqa::Scalar T>
Server<T>::Server(const generate::Model& model, const generate::Tokenizer& tokenizer,
                  gqa::PoolExecutor executor, std::vector<Request> requests, const Settings& settings)
    : tokenizer_(tokenizer),
      context_length_(model.sizes.context_length),
      requests_(std::move(requests)),
      settings_(settings),
      batch_(model, executor, settings.num_pages),
      scheduler_(*this, settings.limits) {
  Scheduler trial(*this, settings.limits);
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    const Request& request = requests_[i];
    const Index earliest = i == 0 ? 0 : requests_[i - 1].arrival;
    try {
      GQA_CHECK(request.arrival >= earliest, std::invalid_argument,
                "it arrives at " << request.arrival << ", expected not before " << earliest);
      generate::check_prompt(request.prompt, context_length_);
      trial.add(std::ssize(request.prompt), settings.samples, most_tokens(request));
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("request " + std::to_string(i + 1) + ": " + error.what());
    }
  }
  service_.samples = settings.samples;
  service_.pages = batch_.cache().statistics();
  arrive();
}

/// What goes through the model at most: the last token that is chosen does not.
template <gqa::Scalar T>
Index Server<T>::most_tokens(const Request& request) const {
  return std::min(context_length_, std::ssize(request.prompt) + settings_.max_tokens - 1);
}

template <gqa::Scalar T>
bool Server<T>::step() {
  const auto shares = scheduler_.next();
  if (!shares.empty()) {
    std::vector<Piece> pieces;
    for (const Share& share : shares) pieces.push_back({at(share.sequence).id, tokens_of(share)});
    batch_.step(pieces);
    scheduler_.fed(shares);
    for (const Share& share : shares) publish(share);
    note_pass(shares);
    choose(shares);
    ++time_;
  } else if (service_.requests.size() < requests_.size()) {
    time_ = requests_[service_.requests.size()].arrival;  // nobody is there: nothing happens until then
  }
  arrive();
  note_state();
  return !scheduler_.done() || service_.requests.size() < requests_.size();
}

template <gqa::Scalar T>
void Server<T>::interrupt() {
  for (Service::Sequence& sequence : service_.sequences)
    if (sequence.continuation.goes_on()) sequence.continuation.end("interrupt");
  note_state();
}

/// Those whose time has come.
template <gqa::Scalar T>
void Server<T>::arrive() {
  while (service_.requests.size() < requests_.size()) {
    const Request& request = requests_[service_.requests.size()];
    if (request.arrival > time_) break;
    scheduler_.add(std::ssize(request.prompt), settings_.samples, most_tokens(request));
    service_.requests.push_back(
        {.prompt_tokens = std::ssize(request.prompt), .arrival = request.arrival, .arrived = now()});
    for (Index i = 0; i < settings_.samples; ++i) {
      service_.sequences.push_back({settings_.sampler_of(std::ssize(service_.sequences)),
                                    {tokenizer_, context_length_, settings_.max_tokens}});
      memory_.emplace_back();
    }
  }
}

/// The tokens that a sequence's share of a pass is.
template <gqa::Scalar T>
std::span<const TokenId> Server<T>::tokens_of(const Share& share) const {
  const Scheduler::Sequence& s = scheduled(share.sequence);
  const auto n = static_cast<std::size_t>(share.tokens);
  if (s.reading()) return std::span(prompt_of(share.sequence)).subspan(static_cast<std::size_t>(s.tokens), n);
  return std::span(at(share.sequence).continuation.ids()).last(n);
}

/// Lets others find what has been read of a prompt.
template <gqa::Scalar T>
void Server<T>::publish(const Share& share) {
  const Scheduler::Sequence& s = scheduled(share.sequence);
  if (s.tokens - share.tokens >= s.prompt_tokens) return;  // it decodes
  batch_.cache().publish(at(share.sequence).id,
                         std::span(prompt_of(share.sequence)).first(static_cast<std::size_t>(s.tokens)));
}

/// The next token of everyone who was given all that there was.
template <gqa::Scalar T>
void Server<T>::choose(const std::vector<Share>& shares) {
  std::vector<Index> pieces;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    if (shares[i].gives_token) pieces.push_back(static_cast<Index>(i));
  }
  if (pieces.empty()) return;
  const generate::Matrix& logits = batch_.logits(pieces);
  for (std::size_t row = 0; row < pieces.size(); ++row) {
    const std::span<const float> scores(logits.row(static_cast<Index>(row)).data(),
                                        static_cast<std::size_t>(logits.cols()));
    const Index first = shares[static_cast<std::size_t>(pieces[row])].sequence;
    const Scheduler::Sequence s = scheduled(first);
    // The samples of a prompt that is read begin with the same scores.
    const bool begins = at(first).continuation.ids().empty();
    for (Index i = first; i < first + (begins ? s.samples : 1); ++i) {
      Service::Sequence& chooser = at(i);
      chooser.continuation.push(chooser.sampler(scores), s.tokens);
      if (!chooser.continuation.goes_on()) scheduler_.end(i);
    }
  }
}

template <gqa::Scalar T>
void Server<T>::note_pass(const std::vector<Share>& shares) {
  ++service_.passes;
  service_.most_at_once = std::max(service_.most_at_once, std::ssize(shares));
  const gqa::PageStatistics pages = batch_.cache().statistics();
  service_.most_used = std::max(service_.most_used, pages.used);
  service_.most_shared = std::max(service_.most_shared, pages.shared);
  const double time = now();
  for (const Share& share : shares) {
    service_.fed_tokens += share.tokens;
    Service::Request& request = service_.requests[request_of(share.sequence)];
    if (share.gives_token && request.first_seconds < 0) request.first_seconds = time - request.arrived;
    request.seconds = time - request.arrived;
  }
}

template <gqa::Scalar T>
void Server<T>::note_state() {
  for (Index i = 0; i < std::ssize(service_.sequences); ++i) {
    const Scheduler::Sequence& s = scheduled(i);
    at(i).fed = s.tokens;
    at(i).swaps = s.swaps;
    at(i).state = s.state;
    if (s.leader == i) service_.requests[request_of(i)].found = s.found;
  }
  service_.seconds = now();
  service_.pages = batch_.cache().statistics();
}

template <gqa::Scalar T>
Index Server<T>::available() const {
  const gqa::PageStatistics pages = batch_.cache().statistics();
  return pages.free + pages.kept;
}

/// The query of a prompt's last token is needed: it is read in any case.
template <gqa::Scalar T>
Index Server<T>::begin(Index i) {
  const std::span<const TokenId> prompt = prompt_of(i);
  const auto match = batch_.cache().create(prompt.first(prompt.size() - 1));
  at(i).id = match.id;
  return match.tokens;
}

template <gqa::Scalar T>
void Server<T>::fork(Index parent, Index child) {
  at(child).id = batch_.cache().fork(at(parent).id);
}

template <gqa::Scalar T>
void Server<T>::swap_out(Index i) {
  auto& memory = memory_[static_cast<std::size_t>(i)];
  memory.resize(static_cast<std::size_t>(batch_.cache().swap_bytes(at(i).id)));
  batch_.cache().swap_out(at(i).id, memory);
  service_.swapped_bytes += std::ssize(memory);
}

template <gqa::Scalar T>
void Server<T>::swap_in(Index i) {
  auto& memory = memory_[static_cast<std::size_t>(i)];
  batch_.cache().swap_in(at(i).id, memory);
  memory = {};
}

template <gqa::Scalar T>
void Server<T>::end(Index i) {
  batch_.cache().free(at(i).id);
}

template class Server<float>;
template class Server<gqa::half>;
template class Server<gqa::bfloat16>;

}  // namespace serve_batch
