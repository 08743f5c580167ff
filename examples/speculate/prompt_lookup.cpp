// SPDX-License-Identifier: Apache-2.0
#include "prompt_lookup.hpp"

#include <algorithm>

namespace speculate {

std::vector<std::vector<TokenId>> PromptLookup::continuations(std::span<const TokenId> text,
                                                              Index length) const {
  std::vector<std::vector<TokenId>> found;
  if (length <= 0) return found;
  const Index size = std::ssize(text);
  if (ngram >= size) return found;
  const auto last = text.last(static_cast<std::size_t>(ngram));
  for (Index at = size - ngram - 1; at >= 0 && std::ssize(found) < branches; --at) {
    if (!std::ranges::equal(text.subspan(static_cast<std::size_t>(at), last.size()), last)) continue;
    std::vector<TokenId> next;
    for (Index i = 0; i < length; ++i) {
      const Index from = at + ngram + i;
      next.push_back(from < size ? text[static_cast<std::size_t>(from)]
                                 : next[static_cast<std::size_t>(from - size)]);
    }
    if (std::ranges::find(found, next) == found.end()) found.push_back(std::move(next));
  }
  return found;
}

TokenTree PromptLookup::operator()(std::span<const TokenId> text, std::span<const TokenId> sure,
                                   Index most) const {
  Index room = std::min(draft, most);
  TokenTree tree(text.back());
  sure = sure.first(static_cast<std::size_t>(std::clamp<Index>(room, 0, std::ssize(sure))));
  std::vector<TokenId> whole(text.begin(), text.end());
  whole.insert(whole.end(), sure.begin(), sure.end());
  const auto branch = [&](const std::vector<TokenId>& next) {
    std::vector<TokenId> tokens(sure.begin(), sure.end());
    tokens.insert(tokens.end(), next.begin(), next.end());
    return tokens;
  };

  room -= tree.add(sure);
  const auto found = continuations(whole, room);
  // The trunk is the best guess, and goes deepest; half the share of a branch is enough to see whether one
  // of the others is right, and the next step goes on from there.
  const Index others = std::clamp<Index>(std::ssize(found) - 1, 0, room / 2);
  const Index share = others == 0 ? 0 : std::max<Index>(1, room / (2 * (others + 1)));
  for (std::size_t i = 0; i < found.size(); ++i)
    room -= tree.add(branch(found[i]), i == 0 ? room - others * share : std::min(share, room));
  return tree;
}

}  // namespace speculate
