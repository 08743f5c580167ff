// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "gguf.hpp"
#include "gqa/core/error.hpp"
#include "utf8.hpp"

namespace generate {

/// The turns of a conversation in ChatML, which SmolLM2 and many others were trained on. A template is a
/// program in a language of its own; this reads from it what ChatML leaves open, the default system message.
/// Throws gqa::format_error when the file has no template or one of another kind.
class ChatTemplate {
 public:
  explicit ChatTemplate(const Gguf& file) {
    const std::string_view source = file.text("tokenizer.chat_template");
    GQA_CHECK(source.find("<|im_start|>") != source.npos && source.find("<|im_end|>") != source.npos,
              gqa::format_error, "the chat template of this model is not ChatML, the only one supported");
    GQA_CHECK(find_invalid_utf8(source) == source.npos, gqa::format_error,
              "tokenizer.chat_template is not valid UTF-8");
    // The line break after the role is one character in the file or, in a string literal, two.
    for (const std::string_view opening : {"<|im_start|>system\n", "<|im_start|>system\\n"}) {
      const std::size_t at = source.find(opening);
      if (at == source.npos) continue;
      const std::string_view rest = source.substr(at + opening.size());
      const std::string_view message = rest.substr(0, rest.find("<|im_end|>"));
      // A quote or brace means that the message is put together from pieces: there is no default one.
      if (message.find_first_of("'\"{}") == message.npos) system_ = message;
    }
  }

  /// The text whose continuation answers the message, with the template's own system message.
  std::string render(std::string_view user_message) const { return render(user_message, system_); }
  /// With another one, or with none where it is empty.
  static std::string render(std::string_view user_message, std::string_view system) {
    std::string text;
    if (!system.empty()) text.append("<|im_start|>system\n").append(system).append("<|im_end|>\n");
    return text + turn(user_message);
  }

  /// What follows an answer for the next message to be answered, the token that ends the answer included:
  /// render(first) + answer + render_next(second) is the whole conversation.
  std::string render_next(std::string_view user_message) const { return "<|im_end|>\n" + turn(user_message); }

 private:
  static std::string turn(std::string_view user_message) {
    return std::string("<|im_start|>user\n").append(user_message) + "<|im_end|>\n<|im_start|>assistant\n";
  }

  std::string_view system_;
};

}  // namespace generate
