// SPDX-License-Identifier: Apache-2.0
#include "rates.hpp"

#include <fstream>
#include <gqa/plan/measure_rates.hpp>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "choices.hpp"

namespace choose_groups {

gqa::CostRates measured_rates(const std::string& dtype, int num_threads) {
  return with_scalar(dtype, [&]<class T>() {
    if (num_threads == 1) return gqa::measure_rates<T>(gqa::Serial{});
    Eigen::ThreadPool pool(num_threads);
    return gqa::measure_rates<T>(pool);
  });
}

nlohmann::ordered_json json_of(const gqa::CostRates& rates, const std::string& dtype) {
  auto read = nlohmann::ordered_json::array();
  for (const auto& level : rates.read) read.push_back({{"fits", level.fits}, {"rate", level.rate}});
  return {{"dtype", dtype},
          {"element_bytes", rates.element_bytes},
          {"num_threads", rates.num_threads},
          {"widens", rates.widens},
          {"read", read},
          {"multiply", rates.multiply},
          {"score", rates.score},
          {"mask", rates.mask},
          {"call", rates.call}};
}

gqa::CostRates read_rates(const std::string& file, const std::string& dtype, int num_threads) {
  std::ifstream in(file);
  GQA_CHECK(in.is_open(), std::invalid_argument, "--rates: cannot read " << file);
  auto json = nlohmann::json::parse(in, nullptr, false);
  try {
    if (json.is_object() && json.contains("rates")) json = nlohmann::json(json.at("rates"));
    gqa::CostRates rates;
    const auto given = json.at("dtype").get<std::string>();
    GQA_CHECK(given == dtype, std::invalid_argument,
              "--rates: " << file << " is of " << given << ", expected " << dtype);
    rates.element_bytes = json.at("element_bytes").get<gqa::Index>();
    rates.num_threads = json.at("num_threads").get<gqa::Index>();
    rates.widens = json.at("widens").get<bool>();
    GQA_CHECK(rates.num_threads == num_threads, std::invalid_argument,
              "--rates: " << file << " is of " << rates.num_threads << " threads, expected " << num_threads);
    for (std::size_t i = 0; i < rates.read.size(); ++i)
      rates.read[i] = {json.at("read").at(i).at("fits").get<double>(),
                       json.at("read").at(i).at("rate").get<double>()};
    rates.multiply = json.at("multiply").get<double>();
    rates.score = json.at("score").get<double>();
    rates.mask = json.at("mask").get<double>();
    rates.call = json.at("call").get<double>();
    return rates;
  } catch (const nlohmann::json::exception&) {
    throw std::invalid_argument("--rates: " + file + " holds no rates as --json prints them");
  }
}

}  // namespace choose_groups
