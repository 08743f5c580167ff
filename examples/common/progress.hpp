// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <string_view>

namespace common {

/// How much longer work takes that goes on as it has.
class TimeLeft {
 public:
  /// The part `done` at a time in seconds: nothing for the first two, and then such as "1 min 20 s". Work
  /// that has gone back is other work.
  std::string at(double done, double seconds) {
    if (done < done_) first_ = done, began_ = seconds;
    done_ = done;
    const double passed = seconds - began_;
    if (passed < 2 || done <= first_) return "";
    // Beyond a hundred days nobody counts.
    const double left = passed * (1 - done) / (done - first_);
    if (!(left < 1e7)) return "";
    const long whole = std::lround(left);
    if (whole < 60) return std::to_string(whole) + " s";
    if (whole < 3600) return std::to_string(whole / 60) + " min " + std::to_string(whole % 60) + " s";
    return std::to_string(whole / 3600) + " h " + std::to_string(whole / 60 % 60) + " min";
  }

 private:
  double done_ = std::numeric_limits<double>::infinity(), first_ = 0, began_ = 0;
};

/// A line on standard error that says how far long work is, and how long it still takes, when that is a
/// terminal; otherwise nothing.
class ProgressLine {
 public:
  ProgressLine() : on_(::isatty(STDERR_FILENO) == 1) {}
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  /// Ten times a second at most, and not before work has gone on for that long.
  void show(std::string_view what, double done) {
    const auto now = std::chrono::steady_clock::now();
    if (!on_ || now < next_) return;
    next_ = now + std::chrono::milliseconds(100);
    const std::string left = time_left_.at(done, std::chrono::duration<double>(now - began_).count());
    std::fprintf(stderr, "\r\033[K%.*s %3.0f %%%s%s%s", static_cast<int>(what.size()), what.data(),
                 100 * done, left.empty() ? "" : ", ", left.c_str(), left.empty() ? "" : " left");
    std::fflush(stderr);
    shown_ = true;
  }

  void clear() {
    if (shown_) std::fputs("\r\033[K", stderr);
    shown_ = false;
  }

 private:
  bool on_;
  bool shown_ = false;
  TimeLeft time_left_;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point next_ =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
};

}  // namespace common
