// SPDX-License-Identifier: Apache-2.0
// The sizes in a config.json, each checked as it is read.
#pragma once

#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "cache_size.hpp"

namespace cache_size {

/// The values of one object of a config.json, where null is the same as absent. Models spell a size in more
/// than one way: the first name that is there counts. Throws gqa::format_error naming what is wrong.
class ConfigKeys {
 public:
  using Names = std::initializer_list<const char*>;
  explicit ConfigKeys(const nlohmann::json& object) : object_(object) {}

  const nlohmann::json* find(const char* name) const {
    const auto at = object_.find(name);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }
  bool has(const char* name) const { return find(name) != nullptr; }

  std::optional<Index> size_if(Names names, Index least = 1) const {
    for (const char* name : names) {
      const nlohmann::json* value = find(name);
      if (value == nullptr) continue;
      // A large unsigned number is none of an Index.
      GQA_CHECK(value->is_number_integer() &&
                    (!value->is_number_unsigned() || value->get<std::uint64_t>() <= largest) &&
                    value->get<std::int64_t>() >= least,
                gqa::format_error,
                name << " is " << value->dump().substr(0, 40) << ", expected an integer of " << least
                     << " to " << largest);
      return value->get<Index>();
    }
    return std::nullopt;
  }
  Index size(Names names, Index least = 1) const {
    const auto value = size_if(names, least);
    GQA_CHECK(value, gqa::format_error, *names.begin() << " is missing");
    return *value;
  }
  Index size_or(Names names, Index otherwise, Index least = 0) const {
    return size_if(names, least).value_or(otherwise);
  }

  bool flag(const char* name, bool otherwise) const {
    const nlohmann::json* value = find(name);
    if (value == nullptr) return otherwise;
    GQA_CHECK(value->is_boolean(), gqa::format_error,
              name << " is " << value->dump().substr(0, 40) << ", expected true or false");
    return value->get<bool>();
  }
  std::string text(const char* name, const std::string& otherwise) const {
    const nlohmann::json* value = find(name);
    if (value == nullptr) return otherwise;
    GQA_CHECK(value->is_string(), gqa::format_error,
              name << " is " << value->dump().substr(0, 40) << ", expected a string");
    return value->get<std::string>();
  }

 private:
  static constexpr std::uint64_t largest = std::numeric_limits<std::int32_t>::max();
  const nlohmann::json& object_;
};

}  // namespace cache_size
