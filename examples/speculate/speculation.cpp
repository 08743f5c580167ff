// SPDX-License-Identifier: Apache-2.0
#include "speculation.hpp"

#include <algorithm>
#include <chrono>
#include <vector>

#include "sampler.hpp"
#include "utf8.hpp"

namespace speculate {

double Speculation::tokens_per_step() const {
  return steps > 0 ? static_cast<double>(generation.output_ids.size() - 1) / static_cast<double>(steps) : 0;
}

double Speculation::accepted_share() const {
  return drafted > 0 ? static_cast<double>(accepted) / static_cast<double>(drafted) : 0;
}

Speculation speculate(generate::Session& session, const generate::Tokenizer& tokenizer,
                      std::span<const TokenId> prompt, const Draft& draft, Index context_length,
                      Index max_tokens, const std::function<void(std::string_view)>& sink,
                      const generate::Progress& progress, const generate::Stop& stop) {
  Speculation result;
  generate::Sampler greedy(0, 0, 0);
  result.generation =
      generate::continue_prompt(session, tokenizer, prompt, greedy, context_length, 1, {}, progress, stop);
  std::vector<TokenId>& output = result.generation.output_ids;
  std::string& text = result.generation.text;
  std::string_view& why = result.generation.stop;
  if (output.empty()) return result;  // interrupted
  const TokenId first = output.front();
  output.clear();
  text.clear();

  generate::Utf8Stream utf8;
  const auto emit = [&](const std::string& piece) {
    text += piece;
    if (sink && !piece.empty()) sink(piece);
  };
  std::vector<TokenId> all(prompt.begin(), prompt.end());  // and what came after it
  // Takes the next token of the text; whether there is to be another one.
  const auto accept = [&](TokenId token) {
    output.push_back(token);
    all.push_back(token);
    emit(utf8.push(tokenizer.bytes(token)));
    why = tokenizer.ends_text(token)              ? "end"
          : std::ssize(output) >= max_tokens      ? "max-tokens"
          : std::ssize(all) - 1 >= context_length ? "context"
          : stop && stop()                        ? "interrupt"
                                                  : "";
    return why.empty();
  };

  const auto start = std::chrono::steady_clock::now();
  std::vector<TokenId> sure;
  bool more = accept(first);
  while (more) {
    const Index before = session.size();
    // Of the tokens wanted, one needs no draft; and there must be room for the known token beside them.
    const Index most = std::min(max_tokens - std::ssize(output), context_length - before) - 1;
    const TokenTree tree = draft(all, sure, most);
    session.append_tree(tree.tokens(), tree.parents());
    const generate::Matrix& scores = session.all_logits();
    const auto next_after = [&](Index node) {
      return generate::most_likely({scores.row(node).data(), static_cast<std::size_t>(scores.cols())});
    };
    ++result.steps;
    result.drafted += tree.size() - 1;

    const Index trunk = tree.trunk_size();
    Index node = 0, right = 0;  // the child of `node` that was right
    while (true) {
      const TokenId next = next_after(node);
      more = accept(next);
      right = tree.child(node, next);
      if (right < 0 || right >= trunk) break;
      ++result.accepted;
      if (!more) break;
      node = right;
    }
    session.truncate(before + node + 1);

    sure.clear();
    if (right >= trunk) ++result.branch_steps;
    for (; more && right >= trunk; right = tree.child(right, sure.back())) sure.push_back(next_after(right));
  }
  emit(utf8.finish());
  if (output.size() > 1)
    result.generation.generation_seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace speculate
