// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "gqa/core/toolchain.hpp"

namespace gqa {

/// A file or byte stream that does not follow its format (wrong magic, length
/// out of bounds, unknown type).
class format_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace gqa

/// Throws `exception_type` with the streamed message unless `condition` holds.
/// The message is built only on failure, and out of line, so a check in a hot
/// function costs one branch.
#define GQA_CHECK(condition, exception_type, message_stream) \
  do {                                                       \
    if (!(condition)) [[unlikely]] {                         \
      throw exception_type([&] {                             \
        std::ostringstream gqa_message;                      \
        gqa_message << message_stream;                       \
        return gqa_message.str();                            \
      }());                                                  \
    }                                                        \
  } while (false)
