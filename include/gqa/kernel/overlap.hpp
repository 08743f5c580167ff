// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "gqa/core/tensor.hpp"

namespace gqa::detail {

/// The bytes of a caller's tensor: rows of `row_bytes` in a batch of tokens of heads.
struct TensorMemory {
  const char* name = "";
  Index begin = 0;  // an address
  Index sizes[3] = {}, strides[3] = {};
  Index row_bytes = 0;

  TensorMemory() = default;
  template <class T>
  TensorMemory(const char* what, const TensorView<T>& view)
      : name(what),
        begin(reinterpret_cast<Index>(view.data)),
        sizes{view.batch, view.tokens, view.heads},
        strides{view.batch_stride * Index{sizeof(T)}, view.token_stride * Index{sizeof(T)},
                view.head_stride * Index{sizeof(T)}},
        row_bytes(view.dim * Index{sizeof(T)}) {}
  template <class T>
  TensorMemory(const char* what, const RowsView<T>& rows)
      : TensorMemory(what, TensorView<T>(rows.data, {rows.batch, rows.tokens, rows.heads, 1},
                                         {rows.batch_stride, rows.token_stride, rows.head_stride})) {}
  TensorMemory(const char* what, const void* data, Index bytes)
      : name(what), begin(reinterpret_cast<Index>(data)), sizes{1, 1, 1}, row_bytes(bytes) {}

  bool empty() const { return sizes[0] == 0 || sizes[1] == 0 || sizes[2] == 0 || row_bytes == 0; }

  /// From the lowest byte to the highest of axes `from` on, of what begins at `at`.
  Range hull(int from, Index at) const {
    Range all = {at, at + row_bytes};
    for (int axis = from; axis < 3; ++axis) {
      const Index reach = (sizes[axis] - 1) * strides[axis];
      (reach < 0 ? all.begin : all.end) += reach;
    }
    return all;
  }
};

/// Whether a row of a tensor from `axis` on, of what begins at `at`, has a byte in `bytes`.
inline bool touches(const TensorMemory& tensor, int axis, Index at, Range bytes) {
  if (intersect(tensor.hull(axis, at), bytes).empty()) return false;
  if (axis == 3) return true;
  // The inner axes reach over `inner`, so only so many steps of this one can meet the bytes.
  const Range inner = tensor.hull(axis + 1, at);
  Range steps = {0, tensor.sizes[axis]};
  const Index stride = tensor.strides[axis];
  if (stride != 0) {
    Index first = (bytes.begin - inner.end) / stride, last = (bytes.end - inner.begin) / stride;
    if (first > last) std::swap(first, last);
    steps = intersect(steps, {first - 1, last + 2});
  } else {
    steps = intersect(steps, {0, 1});
  }
  for (Index i = steps.begin; i < steps.end; ++i)
    if (touches(tensor, axis + 1, at + i * stride, bytes)) return true;
  return false;
}

/// Whether both tensors' tokens lie a stride apart, each in a part of its own of that: slices of one fused
/// tensor.
inline bool side_by_side(const TensorMemory& a, const TensorMemory& b) {
  const Index stride = a.strides[1];
  const auto whole_tokens = [&](const TensorMemory& x) {
    return x.strides[1] == stride && (x.sizes[0] == 1 || x.strides[0] % stride == 0);
  };
  if (stride <= 0 || !whole_tokens(a) || !whole_tokens(b)) return false;
  const Range of_a = a.hull(2, a.begin), of_b = b.hull(2, b.begin);
  const Index apart = ((of_b.begin - of_a.begin) % stride + stride) % stride;
  return apart >= of_a.size() && apart + of_b.size() <= stride;
}

/// Whether two tensors share a byte.
inline bool share_memory(const TensorMemory& a, const TensorMemory& b) {
  if (a.empty() || b.empty() || intersect(a.hull(0, a.begin), b.hull(0, b.begin)).empty()) return false;
  if (side_by_side(a, b)) return false;
  for (Index batch = 0; batch < a.sizes[0]; ++batch)
    for (Index token = 0; token < a.sizes[1]; ++token)
      for (Index head = 0; head < a.sizes[2]; ++head) {
        const Index at = a.begin + batch * a.strides[0] + token * a.strides[1] + head * a.strides[2];
        if (touches(b, 0, b.begin, {at, at + a.row_bytes})) return true;
      }
  return false;
}

/// Throws std::invalid_argument where a tensor that is to be written shares memory with another, or rows of
/// it with each other.
inline void check_output_memory(const TensorMemory& output, std::initializer_list<TensorMemory> others) {
  if (output.empty()) return;
  for (int axis = 0; axis < 3; ++axis)
    GQA_CHECK(output.sizes[axis] == 1 || output.strides[axis] != 0, std::invalid_argument,
              output.name << ": a stride is 0, with which rows that are to be written share memory");
  for (const TensorMemory& other : others)
    GQA_CHECK(!share_memory(output, other), std::invalid_argument,
              output.name << ": shares memory with " << other.name << ", expected memory of its own");
}

}  // namespace gqa::detail
