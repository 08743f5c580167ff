// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <signal.h>

#include <atomic>

namespace generate {

/// What shells report of a program that Ctrl-C ended.
inline constexpr int interrupt_exit_code = 128 + SIGINT;

inline std::atomic<bool> interrupt_seen = false;
static_assert(std::atomic<bool>::is_always_lock_free, "a signal's handler may set no other");

/// Whether Ctrl-C asked for a stop since catch_interrupt().
inline bool interrupted() { return interrupt_seen; }

/// From here on the first Ctrl-C (SIGINT) asks for a stop; the second ends the program as ever. Where the
/// signal is ignored, as under nohup and in a script's background jobs, it goes on being ignored.
inline void catch_interrupt() {
  struct ::sigaction previous {};
  if (::sigaction(SIGINT, nullptr, &previous) != 0 || previous.sa_handler == SIG_IGN) return;
  struct ::sigaction action {};
  action.sa_handler = [](int) { interrupt_seen = true; };
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
}

}  // namespace generate
