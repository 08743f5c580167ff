// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "inputs.hpp"
#include "shape.hpp"

namespace bench {

/// A case with its memory, ready to be timed.
class Subject {
 public:
  virtual ~Subject() = default;
  /// Does it once, on `pool` or, without one, on the calling thread. Successive calls go on to the next
  /// layer.
  virtual void run(Eigen::ThreadPool* pool) = 0;
  /// Runs it and compares with the oracle: empty, or what is wrong.
  virtual std::string check(Eigen::ThreadPool* pool) = 0;
  /// What else a row shows that took `seconds` a run, measured now.
  virtual std::map<std::string, double> measure(double /*seconds*/) { return {}; }
  /// Writes the output as floats, tokens x heads x dim.
  virtual void save_output(const std::string&) const { throw std::logic_error("this case has no output"); }
};

/// attention() over a KVCache (kinds with `ctx`) or over plain tensors (prefill).
/// Inputs are random, or given by files of q, k and v.
template <class T>
std::unique_ptr<Subject> make_attention(const Shape& shape, Index layers, Inputs<T> inputs);

/// attention_backward() of a causal prefill, whose queries are its output's gradients too.
std::unique_ptr<Subject> make_backward(const Shape& shape, Inputs<float> inputs);

/// What a C++ engineer writes with Eigen matrices, a head at a time.
template <class T>
std::unique_ptr<Subject> make_eigen(const Shape& shape, Index layers, Inputs<T> inputs);

extern template std::unique_ptr<Subject> make_attention(const Shape&, Index, Inputs<float>);
extern template std::unique_ptr<Subject> make_attention(const Shape&, Index, Inputs<gqa::half>);
extern template std::unique_ptr<Subject> make_attention(const Shape&, Index, Inputs<gqa::bfloat16>);
extern template std::unique_ptr<Subject> make_eigen(const Shape&, Index, Inputs<float>);
extern template std::unique_ptr<Subject> make_eigen(const Shape&, Index, Inputs<gqa::half>);
extern template std::unique_ptr<Subject> make_eigen(const Shape&, Index, Inputs<gqa::bfloat16>);

}  // namespace bench
