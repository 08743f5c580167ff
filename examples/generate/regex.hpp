// SPDX-License-Identifier: Apache-2.0
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace generate {

/// A Unicode regular expression: \p{..} are Unicode's properties, texts are UTF-8. Threads may share it.
class Regex {
 public:
  explicit Regex(std::string_view pattern) {
    int error = 0;
    PCRE2_SIZE at = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                              PCRE2_UTF | PCRE2_UCP, &error, &at, nullptr));
    if (!code_) throw std::logic_error("regular expression: error at character " + std::to_string(at));
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // where there is no JIT, matching interprets
  }

  /// Cuts a valid UTF-8 text into its matches and what lies between them, in order; nothing is lost.
  /// Look-ahead sees the end of this text, whatever follows it in memory.
  std::vector<std::string_view> split(std::string_view text) const {
    const std::unique_ptr<pcre2_match_data, Free> match(
        pcre2_match_data_create_from_pattern(code_.get(), nullptr));
    if (!match) throw std::bad_alloc();
    std::vector<std::string_view> pieces;
    std::size_t done = 0;
    while (done < text.size()) {
      const int found = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), done,
                                    PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, match.get(), nullptr);
      if (found < 0 && found != PCRE2_ERROR_NOMATCH) {
        throw std::runtime_error("regular expression: matching failed with error " + std::to_string(found));
      }
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match.get());
      const std::size_t begin = found < 0 ? text.size() : ends[0];
      if (begin > done) pieces.push_back(text.substr(done, begin - done));
      if (found < 0) break;
      pieces.push_back(text.substr(begin, ends[1] - begin));
      done = ends[1];
    }
    return pieces;
  }

 private:
  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
    void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
  };
  std::unique_ptr<pcre2_code, Free> code_;
};

}  // namespace generate
