// SPDX-License-Identifier: Apache-2.0
#include "text.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <system_error>

#include "gqa/core/error.hpp"

namespace uptrain {
namespace {

/// Throws std::system_error.
std::string read_all(std::FILE* file, const std::string& name) {
  std::string bytes;
  std::array<char, 1 << 16> part;
  for (std::size_t n = 0; (n = std::fread(part.data(), 1, part.size(), file)) > 0;)
    bytes.append(part.data(), n);
  if (std::ferror(file)) throw std::system_error(errno, std::generic_category(), "cannot read " + name);
  return bytes;
}

}  // namespace

Text::Text(std::string_view bytes, Index context, const std::string& name) {
  std::array<bool, 256> seen{};
  for (const char c : bytes) seen[static_cast<unsigned char>(c)] = true;
  std::array<Symbol, 256> number{};
  for (std::size_t i = 0; i < seen.size(); ++i)
    if (seen[i]) number[i] = static_cast<Symbol>(vocabulary_++);
  const std::size_t blocks = 100;
  for (std::size_t i = 0; i < blocks; ++i) {
    std::vector<Symbol>& part = i % 10 == 5 ? validation_ : training_;
    const std::size_t end = bytes.size() / blocks * (i + 1) + bytes.size() % blocks * (i + 1) / blocks;
    for (std::size_t at = training_.size() + validation_.size(); at < end; ++at)
      part.push_back(number[static_cast<unsigned char>(bytes[at])]);
  }
  GQA_CHECK(std::ssize(validation_) > context, std::invalid_argument,
            name << ": size is " << bytes.size() << " bytes, expected at least " << 10 * (context + 1) + 100
                 << ", of which a tenth is to measure on");
  GQA_CHECK(vocabulary_ > 1, std::invalid_argument,
            name << ": all bytes are the same, expected a text of several symbols");
}

std::string read_text(const std::filesystem::path& path) {
  if (path == "-") return read_all(stdin, "standard input");
  const auto close = [](std::FILE* file) { std::fclose(file); };
  const std::unique_ptr<std::FILE, decltype(close)> file(std::fopen(path.c_str(), "rb"), close);
  if (!file) throw std::system_error(errno, std::generic_category(), "cannot open " + path.string());
  return read_all(file.get(), path.string());
}

std::string read_bible() {
  std::FILE* const pipe = ::popen("bible -f gen1:1-rev22:21 2>/dev/null </dev/null", "r");
  std::string verses;
  int status = -1;
  if (pipe != nullptr) {
    verses = read_all(pipe, "bible");
    status = ::pclose(pipe);
  }
  GQA_CHECK(status == 0 && !verses.empty(), std::invalid_argument,
            "there is no text: give --text FILE, or install Debian's bible-kjv and bible-kjv-text");
  std::string text;  // "Ge1:1 In the beginning ..."
  for (std::size_t at = 0; at < verses.size();) {
    const std::size_t end = std::min(verses.find('\n', at), verses.size() - 1);
    const std::size_t words = std::min(verses.find(' ', at), end - 1) + 1;
    text.append(verses, words, end + 1 - words);
    at = end + 1;
  }
  return text;
}

}  // namespace uptrain
