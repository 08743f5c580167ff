// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "machine.hpp"
#include "shape.hpp"
#include "subject.hpp"

namespace bench {

/// One row of the report.
struct Row {
  std::string name;
  std::string memory_key;  ///< rows with the same key run on the same subject
  int threads = 1;
  double bytes = 0, flops = 0;  ///< what one run must move and compute at least
  double footprint = 0;         ///< what successive runs cycle through; decides whose bandwidth it is held to
  double memory = 0;            ///< what the subject holds
  Dtype dtype = Dtype::f32;
  std::map<std::string, double> counters = {};  ///< shown as they are
  std::function<std::unique_ptr<Subject>()> make = {};
};

/// Copies of `layer_bytes` that together exceed twice the last cache, to cycle through. A real model finds
/// each layer's keys and values in memory, as the other layers' have gone through the processor's caches
/// since the last token.
Index layers_to_cycle(double layer_bytes, const Machine& machine);

/// The row of an attention case; the group names who computes it (eigen_* or the library).
Row attention_row(const Shape& shape, const Machine& machine);

/// Everything there is to measure, in the report's order.
std::vector<Row> all_rows(const Machine& machine);

/// One subject a function. First those that are not attention: filling and growing a cache, rotating queries
/// and keys.
std::vector<Row> cache_rows();
std::vector<Row> operation_rows();
std::vector<Row> capacity_rows();
std::vector<Row> file_rows();  ///< where xxHash is
std::vector<Row> rope_rows();
std::vector<Row> backward_rows(const Machine& machine);
std::vector<Row> weights_rows(const Machine& machine);
std::vector<Row> block_rows(const Machine& machine);
std::vector<Row> score_rows(const Machine& machine);
std::vector<Row> batch_rows(const Machine& machine);
std::vector<Row> prefix_rows(const Machine& machine);
std::vector<Row> member_rows(const Machine& machine);
std::vector<Row> grouping_rows(const Machine& machine);
std::vector<Row> ring_rows();
std::vector<Row> linear_rows(const Machine& machine);
std::vector<Row> latent_rows();
std::vector<Row> sparse_rows();
std::vector<Row> cost_rows(const Machine& machine);
std::vector<Row> tune_rows(const Machine& machine);

}  // namespace bench
