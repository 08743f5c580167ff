// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <optional>
#include <string>
#include <system_error>

namespace generate {

/// The lines of standard input as they arrive.
class LineReader {
 public:
  /// The next line without its end (LF or CRLF), the last one even if none ends it; nothing at the end of
  /// the input or when `stop` says so while it waits. Throws std::system_error when it cannot be read.
  std::optional<std::string> next(const std::function<bool()>& stop) {
    while (true) {
      const std::size_t end = pending_.find('\n');
      if (end != std::string::npos) return take(end, 1);
      if (ended_) return pending_.empty() ? std::nullopt : std::optional(take(pending_.size(), 0));
      if (stop()) return std::nullopt;
      // Not for ever: the signal that makes stop() true may come just before poll() waits.
      struct ::pollfd input {
        .fd = STDIN_FILENO, .events = POLLIN, .revents = 0
      };
      if (::poll(&input, 1, 100) <= 0) continue;
      char bytes[4096];
      const ::ssize_t count = ::read(STDIN_FILENO, bytes, sizeof(bytes));
      if (count < 0 && errno != EINTR)
        throw std::system_error(errno, std::generic_category(), "cannot read standard input");
      if (count == 0) ended_ = true;
      if (count > 0) pending_.append(bytes, static_cast<std::size_t>(count));
    }
  }

 private:
  std::string take(std::size_t size, std::size_t line_break) {
    std::string line = pending_.substr(0, size);
    pending_.erase(0, size + line_break);
    if (line.ends_with('\r')) line.pop_back();
    return line;
  }

  std::string pending_;
  bool ended_ = false;
};

}  // namespace generate
