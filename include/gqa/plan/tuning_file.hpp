// SPDX-License-Identifier: Apache-2.0
// What tune() found, kept as a few lines of text, for the machine and the calls it was measured with.
#pragma once

#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>

#include "gqa/core/parallel.hpp"
#include "gqa/core/scalar.hpp"
#include "gqa/core/version.hpp"
#include "gqa/plan/call_shape.hpp"

namespace gqa {

namespace detail {

/// The processor's name as it gives it, or as little as is known.
inline std::string processor_name() {
  std::string name;
#if defined(__x86_64__)
  for (unsigned leaf = 0x80000002u; leaf <= 0x80000004u; ++leaf) {
    unsigned words[4] = {};
    if (__get_cpuid(leaf, &words[0], &words[1], &words[2], &words[3]) == 0) break;
    char part[sizeof words];
    std::memcpy(part, words, sizeof words);
    name.append(part, sizeof part);
  }
#endif
  name.resize(std::strlen(name.c_str()));
  for (char& c : name)
    if (c < ' ' || c > '~') c = ' ';
  while (!name.empty() && name.back() == ' ') name.pop_back();
  return name.empty() ? "unknown" : name;
}

/// FNV-1a, 64 bits: it tells a damaged text, not a forged one.
constexpr std::uint64_t text_sum(std::string_view text) {
  std::uint64_t sum = 0xcbf29ce484222325u;
  for (const char c : text) sum = (sum ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return sum;
}

/// All but the tuning and the sum: what both must agree on to be of use.
inline std::string tuning_header(const CallShape& s, const char* scalar, Index num_threads) {
  const auto number = [](auto x) { return std::to_string(x); };
  return "gqa tuning 1\nlibrary " + number(version.major) + "." + number(version.minor) + "." +
         number(version.patch) + "\nprocessor " + processor_name() + ", " +
         number(std::thread::hardware_concurrency()) + " threads, " + name(isa()) + "\ncall " + scalar +
         ", num_threads " + number(num_threads) + ", num_q_heads " + number(s.num_q_heads) +
         ", num_kv_heads " + number(s.num_kv_heads) + ", head_dim " + number(s.head_dim) + ", value_dim " +
         number(s.values()) + ", q_tokens " + number(s.q_tokens) + ", kv_tokens " + number(s.kv_tokens) +
         ", num_seqs " + number(s.num_seqs) + ", causal " + number(int{s.causal}) + ", window " +
         number(s.window) + "\n";
}

/// Takes the line that `text` begins with off it. Throws format_error where there is none.
inline std::string_view take_line(std::string_view& text) {
  const auto end = text.find('\n');
  GQA_CHECK(end != text.npos, format_error, "tuning: the text ends within a line");
  const auto line = text.substr(0, end);
  text.remove_prefix(end + 1);
  return line;
}

/// Takes `key` and the number behind it off `line`.
inline Index take_number(std::string_view& line, std::string_view key) {
  GQA_CHECK(line.starts_with(key), format_error, "tuning: expected '" << key << "' in '" << line << "'");
  line.remove_prefix(key.size());
  Index value = -1;
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), value);
  GQA_CHECK(error == std::errc() && value >= 0 && value <= tuning::most_tuning, format_error,
            "tuning: '" << line << "' does not begin with a number from 0 to " << tuning::most_tuning);
  line.remove_prefix(static_cast<std::size_t>(end - line.data()));
  return value;
}

inline std::string to_text(const Tuning& tuning, const std::string& header) {
  std::string text = header + "tuning threads " + std::to_string(tuning.threads) + ", block_rows " +
                     std::to_string(tuning.block_rows) + ", task_rows " + std::to_string(tuning.task_rows) +
                     ", tasks_per_thread " + std::to_string(tuning.tasks_per_thread) + "\n";
  return text + "sum " + std::to_string(text_sum(text)) + "\n";
}

inline Tuning from_text(std::string_view text, const std::string& header) {
  std::string_view rest = text, expected = header;
  // A text of another kind or version of the form is not damaged, so its first line comes before its sum.
  const auto kind = take_line(rest);
  GQA_CHECK(kind == take_line(expected), format_error,
            "tuning: it begins with '" << kind.substr(0, 40) << "', expected 'gqa tuning 1'");
  const auto last = text.rfind("\nsum ");
  GQA_CHECK(last != text.npos &&
                text.substr(last + 1) == "sum " + std::to_string(text_sum(text.substr(0, last + 1))) + "\n",
            format_error, "tuning: the text is damaged, its sum is not that of its lines");
  while (!expected.empty()) {
    const auto line = take_line(rest), own = take_line(expected);
    GQA_CHECK(line == own, format_error, "tuning: made for '" << line << "', expected '" << own << "'");
  }
  auto line = take_line(rest);
  Tuning tuning;
  tuning.threads = take_number(line, "tuning threads ");
  tuning.block_rows = take_number(line, ", block_rows ");
  tuning.task_rows = take_number(line, ", task_rows ");
  tuning.tasks_per_thread = take_number(line, ", tasks_per_thread ");
  take_line(rest);
  GQA_CHECK(line.empty() && rest.empty(), format_error,
            "tuning: there is more than expected: '" << line << rest << "'");
  return tuning;
}

}  // namespace detail

/// A tuning as text: a line each for the form, the library's version, the processor (its name, threads and
/// instruction set), the calls that it was measured for, and itself; the last is a checksum.
template <Scalar T, ExecutorLike E>
std::string tuning_text(E&& executor, const CallShape& shape, const Tuning& tuning) {
  detail::check_shape(shape);
  return detail::to_text(tuning,
                         detail::tuning_header(shape, scalar_name<T>(), as_executor(executor).num_threads()));
}

/// The tuning that tuning_text() made this of. Throws format_error where the text is damaged, or was made for
/// another machine, version, element type, number of threads or shape; the message says which.
template <Scalar T, ExecutorLike E>
Tuning parse_tuning(E&& executor, const CallShape& shape, std::string_view text) {
  detail::check_shape(shape);
  return detail::from_text(
      text, detail::tuning_header(shape, scalar_name<T>(), as_executor(executor).num_threads()));
}

/// Keeps the text in a file, which is replaced whole or not at all. Throws std::system_error.
template <Scalar T, ExecutorLike E>
void save_tuning(const std::filesystem::path& path, E&& executor, const CallShape& shape,
                 const Tuning& tuning) {
  const std::string text = tuning_text<T>(executor, shape, tuning);
  std::filesystem::path beside = path;
  beside += ".tmp";
  {
    std::ofstream file(beside, std::ios::binary | std::ios::trunc);
    file << text;
    if (!file.flush()) {
      const int error = errno;
      std::error_code ignored;
      std::filesystem::remove(beside, ignored);
      throw std::system_error(error, std::generic_category(), "cannot write " + beside.string());
    }
  }
  std::filesystem::rename(beside, path);
}

/// Reads it back. Throws as parse_tuning() does, and std::system_error where there is no file to be read.
template <Scalar T, ExecutorLike E>
Tuning load_tuning(const std::filesystem::path& path, E&& executor, const CallShape& shape) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (file.bad() || !file.is_open())
    throw std::system_error(errno, std::generic_category(), "cannot read " + path.string());
  return parse_tuning<T>(executor, shape, text);
}

}  // namespace gqa
