// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "gqa/core/ragged.hpp"
#include "gqa/core/tensor.hpp"

namespace gqa::detail {

/// Tokens of several sequences as a caller hands them over: a batch as long as the longest, of which each has
/// the first, or packed ones with offsets.
template <class T>
class BatchRows {
 public:
  explicit BatchRows(const TensorView<T>& batch) : tensor_(batch) {}
  explicit BatchRows(const Ragged<T>& packed) : tensor_(packed.tensor), offsets_(packed.offsets) {}

  /// Whether there are `seqs` sequences of tokens(seq) x heads x dim. Throws std::invalid_argument.
  template <class Tokens>
  void check(const char* name, Index seqs, Tokens&& tokens, Index heads, Index dim) const {
    const Index batch = offsets_.empty() ? tensor_.batch : std::ssize(offsets_) - 1;
    GQA_CHECK(batch == seqs, std::invalid_argument, name << ": batch is " << batch << ", expected " << seqs);
    Index longest = 0;
    for (Index seq = 0; seq < seqs; ++seq) {
      longest = std::max<Index>(longest, tokens(seq));
      if (offsets_.empty()) continue;
      GQA_CHECK(size(seq) == tokens(seq), std::invalid_argument,
                name << ": sequence " << seq << " has " << size(seq) << " tokens, expected " << tokens(seq));
    }
    GQA_CHECK(!offsets_.empty() || tensor_.tokens == longest, std::invalid_argument,
              name << ": tokens is " << tensor_.tokens << ", expected " << longest
                   << ", those of the longest sequence");
    GQA_CHECK(tensor_.heads == heads, std::invalid_argument,
              name << ": heads is " << tensor_.heads << ", expected " << heads);
    GQA_CHECK(tensor_.dim == dim, std::invalid_argument,
              name << ": dim is " << tensor_.dim << ", expected " << dim);
  }

  /// The first `tokens` of a sequence.
  TensorView<T> of(Index seq, Index tokens) const {
    const bool packed = !offsets_.empty();
    const Index batch = packed ? 0 : seq, first = packed ? offsets_[static_cast<std::size_t>(seq)] : 0;
    return {tensor_.at(batch, first, 0),
            {1, tokens, tensor_.heads, tensor_.dim},
            {tensor_.batch_stride, tensor_.token_stride, tensor_.head_stride}};
  }

 private:
  Index size(Index seq) const {
    return offsets_[static_cast<std::size_t>(seq) + 1] - offsets_[static_cast<std::size_t>(seq)];
  }

  TensorView<T> tensor_;
  std::span<const Index> offsets_ = {};  // none: a batch
};

}  // namespace gqa::detail
