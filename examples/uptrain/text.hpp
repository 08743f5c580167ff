// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "gqa/core/shape.hpp"

namespace uptrain {

using gqa::Index;
using Symbol = std::uint8_t;

/// A text as the symbols it is made of, its bytes, numbered from 0 on, and cut in two: what a model learns
/// from, and what it is measured on. The latter is every tenth of 100 blocks (the 5th, the 15th, ...), for
/// the end of a text may be of another kind than its beginning.
class Text {
 public:
  /// Throws std::invalid_argument, `name` in front, where either part is shorter than `context` + 1 symbols,
  /// or all symbols are the same.
  Text(std::string_view bytes, Index context, const std::string& name);

  Index vocabulary() const { return vocabulary_; }
  const std::vector<Symbol>& training() const { return training_; }
  const std::vector<Symbol>& validation() const { return validation_; }

 private:
  Index vocabulary_ = 0;
  std::vector<Symbol> training_, validation_;
};

/// All of a file; `-` is standard input. Throws std::system_error.
std::string read_text(const std::filesystem::path& path);

/// The Bible of King James as Debian's bible-kjv prints it, without the numbers of verses. Throws
/// std::invalid_argument, saying what to install, where it is not there.
std::string read_bible();

}  // namespace uptrain
