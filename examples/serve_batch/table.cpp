// SPDX-License-Identifier: Apache-2.0
#include "table.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iomanip>
#include <sstream>

namespace serve_batch {
namespace {

using State = Scheduler::Sequence::State;

/// The end of a text as `width` columns: a code point each, what is no letter or sign of ASCII's left out.
std::string tail(const std::string& text, Index width) {
  std::string line;
  for (const char c : text) {
    if (c == '\n') line += ' ';
    if (c >= ' ' && c <= '~') line += c;
  }
  return std::ssize(line) <= width ? line : line.substr(line.size() - static_cast<std::size_t>(width));
}

std::string state_of(const Service& service, std::size_t i) {
  const Service::Sequence& s = service.sequences[i];
  const Service::Request& request = service.requests[i / static_cast<std::size_t>(service.samples)];
  if (s.state == State::waiting) return "waits";
  if (s.state == State::swapped_out) return "swapped out";
  return s.fed < request.prompt_tokens
             ? "reads " + std::to_string(s.fed) + "/" + std::to_string(request.prompt_tokens)
             : "decodes";
}

}  // namespace

std::vector<std::string> table_lines(const Service& service, Index width, Index height) {
  const auto cut = [&](std::string line) {
    if (std::ssize(line) > width) line.resize(static_cast<std::size_t>(width));
    return line;
  };
  std::ostringstream head;
  head << "pass " << service.passes << std::fixed << std::setprecision(1) << ", " << service.rate()
       << " tokens/s, pages: " << service.pages.used << " of " << service.pages.pages << " used, "
       << service.pages.shared << " shared, " << service.pages.kept << " kept";
  std::vector<std::string> lines = {cut(head.str())};
  for (std::size_t i = 0; i < service.sequences.size() && std::ssize(lines) < height; ++i) {
    const Service::Sequence& s = service.sequences[i];
    if (!s.continuation.goes_on()) continue;
    std::ostringstream line;
    const auto samples = static_cast<std::size_t>(service.samples);
    std::string name = std::to_string(i / samples + 1);
    if (samples > 1) name += "." + std::to_string(i % samples + 1);
    line << std::setw(7) << name << "  " << std::left << std::setw(14) << state_of(service, i) << std::right
         << std::setw(5) << s.continuation.ids().size() << "  ";
    const Index left = width - std::ssize(line.str());
    lines.push_back(cut(line.str() + tail(s.continuation.text(), std::max<Index>(0, left))));
  }
  return lines;
}

LiveTable::LiveTable() : on_(::isatty(STDERR_FILENO) == 1) {}

void LiveTable::show(const Service& service) {
  const auto now = std::chrono::steady_clock::now();
  if (!on_ || now < next_) return;
  next_ = now + std::chrono::milliseconds(100);
  struct ::winsize size {};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) size.ws_col = 80;
  if (size.ws_row == 0) size.ws_row = 24;
  clear();
  // The last column and row stay empty: writing there moves what is above.
  const auto lines = table_lines(service, size.ws_col - 1, std::max(1, size.ws_row - 1));
  for (const std::string& line : lines) std::fprintf(stderr, "%s\n", line.c_str());
  std::fflush(stderr);
  shown_ = std::ssize(lines);
}

void LiveTable::clear() {
  if (shown_ > 0) std::fprintf(stderr, "\033[%tdA\r\033[J", shown_);
  shown_ = 0;
}

}  // namespace serve_batch
