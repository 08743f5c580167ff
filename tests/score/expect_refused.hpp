// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <stdexcept>
#include <string>

namespace gqa::test {

/// Runs f and expects std::invalid_argument with all the words in its message.
template <class F>
void expect_refused(F f, std::initializer_list<const char*> words) {
  try {
    f();
    ADD_FAILURE() << "accepted, expected an error about " << *words.begin();
  } catch (const std::invalid_argument& error) {
    for (const char* word : words)
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos)
          << error.what() << ", expected " << word;
  }
}

}  // namespace gqa::test
