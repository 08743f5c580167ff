// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "server.hpp"

namespace serve_batch {

/// What a server does at the moment, as lines of at most `width` columns: one for each text that is not over,
/// as many as `height` has room for, below one with the figures of all.
std::vector<std::string> table_lines(const Service& service, Index width, Index height);

/// Those lines on standard error, drawn over the ones before, when that is a terminal; otherwise nothing.
class LiveTable {
 public:
  LiveTable();
  ~LiveTable() { clear(); }
  LiveTable(const LiveTable&) = delete;
  LiveTable& operator=(const LiveTable&) = delete;

  /// Ten times a second at most.
  void show(const Service& service);
  void clear();

 private:
  bool on_;
  Index shown_ = 0;  // lines
  std::chrono::steady_clock::time_point next_ = {};
};

}  // namespace serve_batch
