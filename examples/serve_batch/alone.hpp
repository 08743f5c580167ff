// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "generation.hpp"
#include "server.hpp"

namespace serve_batch {

/// The text of one of a server's sequences when nothing else goes through the model: from a contiguous cache
/// of its own.
inline generate::Generation continue_alone(const generate::Model& model, const generate::Tokenizer& tokenizer,
                                           gqa::PoolExecutor executor, generate::CacheType type,
                                           const Request& request, const Settings& settings, Index sequence,
                                           const generate::Stop& stop = {}) {
  const auto session = generate::make_session(model, type, executor);
  generate::Sampler sampler = settings.sampler_of(sequence);
  return generate::continue_prompt(*session, tokenizer, request.prompt, sampler, model.sizes.context_length,
                                   settings.max_tokens, {}, {}, stop);
}

}  // namespace serve_batch
