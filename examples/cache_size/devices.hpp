// SPDX-License-Identifier: Apache-2.0
// How many devices of one size a model and its users' caches need.
#pragma once

#include <bit>
#include <sstream>
#include <string>
#include <vector>

#include "capacity.hpp"

namespace cache_size {

/// What the figures take for granted, said with them.
inline constexpr const char* devices_assumption =
    "weights and caches split evenly over devices whose number is a power of two (tensor parallelism), and "
    "nothing "
    "else in their memory";

/// What one way to keep keys and values comes to.
struct Devices {
  std::string label;
  Index cache = 0;          ///< bytes of all users' keys and values
  double quotient = 0;      ///< of weights and cache by a device's memory
  std::uint64_t count = 0;  ///< that, rounded up to a power of two
};

/// `budget.memory` is a device's, `budget.users` how many there are; `c.context` tokens of each.
inline std::vector<Devices> devices(const Case& c, const Budget& budget) {
  check_at_least("device-memory", budget.memory, 1);
  std::vector<Devices> all;
  for (const Variant& each : variants(c, budget)) {
    const gqa::CachePlan plan = plan_of(each.shape, each.budget);
    const Index cache =
        with_scalar(c.dtype, [&]<class T>() { return plan.bytes<T>(c.context, budget.users.value_or(1)); });
    const Index bytes = checked_add(budget.weights, cache, "bytes of weights and cache");
    const auto whole = static_cast<std::uint64_t>(gqa::ceil_div(bytes, budget.memory));
    all.push_back({each.label, cache, static_cast<double>(bytes) / static_cast<double>(budget.memory),
                   std::bit_ceil(whole)});
  }
  return all;
}

inline std::string devices_text(const Case& c, const Budget& budget) {
  const Index users = budget.users.value_or(1);
  std::ostringstream text;
  text << c.name << " in " << c.dtype << ": " << grouped(users) << (users == 1 ? " user of " : " users of ")
       << grouped(c.context) << " tokens, devices of " << scaled(budget.memory) << ", "
       << placement_of(c.shape, budget) << "\n"
       << "weights: " << budget.weights_text << "\n"
       << "assumed: " << devices_assumption << "\n\n"
       << std::string(30, ' ') << "   keys and values   with the weights   of a device   devices\n";
  for (const Devices& d : devices(c, budget))
    text << std::left << std::setw(30) << d.label << std::right << std::setw(18) << scaled(d.cache)
         << std::setw(19) << scaled(d.cache + budget.weights) << std::setw(13) << fixed(d.quotient, 2) << "x"
         << std::setw(10) << d.count << "\n";
  return text.str();
}

inline nlohmann::ordered_json devices_json(const Case& c, const Budget& budget) {
  nlohmann::ordered_json object = {{"name", c.name},
                                   {"dtype", c.dtype},
                                   {"placement", placement_of(c.shape, budget)},
                                   {"device_memory", budget.memory},
                                   {"weights", budget.weights},
                                   {"weights_are", budget.weights_text},
                                   {"users", budget.users.value_or(1)},
                                   {"context", c.context},
                                   {"assumed", devices_assumption},
                                   {"devices", nlohmann::ordered_json::array()}};
  for (const Devices& d : devices(c, budget))
    object["devices"].push_back(
        {{"kind", d.label}, {"cache", d.cache}, {"quotient", d.quotient}, {"count", d.count}});
  return object;
}

}  // namespace cache_size
