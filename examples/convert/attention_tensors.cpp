// SPDX-License-Identifier: Apache-2.0
#include "attention_tensors.hpp"

#include <algorithm>
#include <optional>
#include <string>

#include "gqa/core/error.hpp"

namespace convert {
namespace {

using gqa::format_error;
using gqa::convert::Matrix;
using gqa::convert::Weights;

std::string tensor_name(Index layer, const char* part, const char* kind) {
  return "blk." + std::to_string(layer) + "." + part + kind;
}

Matrix read_matrix(const Gguf& file, const std::string& name, Index rows, Index columns) {
  const GgufTensor* tensor = file.find_tensor(name);
  GQA_CHECK(tensor != nullptr, format_error, "tensor " << name << " is missing");
  GQA_CHECK(
      tensor->rows() == rows && tensor->columns() == columns, format_error,
      "tensor " << name << " is " << tensor->shape() << ", expected [" << columns << ", " << rows << "]");
  std::vector<float> values(static_cast<std::size_t>(rows * columns));
  generate::dequantize(tensor->type, tensor->data, values);
  check_finite(name, values);
  return Matrix(values.data(), rows, columns);
}

std::vector<double> read_bias(const Gguf& file, const std::string& name, Index size) {
  if (file.find_tensor(name) == nullptr) return {};
  return read_matrix(file, name, 1, size).values();
}

/// For each head of `now`, the head of `before` that it is to the bit; nothing where one is none of them.
std::optional<std::vector<Index>> heads_found(const Matrix& now, const Matrix& before, Index dim) {
  std::vector<Index> found;
  const Index size = dim * now.cols(), there = before.rows() / dim;
  for (Index h = 0; h < now.rows() / dim; ++h) {
    Index from = 0;
    while (from < there && !std::equal(now.row(h * dim), now.row(h * dim) + size, before.row(from * dim)))
      ++from;
    if (from == there) return std::nullopt;
    found.push_back(from);
  }
  return found;
}

std::vector<float> narrow(const std::vector<double>& values) {
  std::vector<float> result;
  for (const double x : values) result.push_back(static_cast<float>(x));
  return result;
}

OutputTensor encoded(std::string name, std::vector<Index> sizes, TensorType type,
                     const std::vector<double>& values) {
  OutputTensor tensor{.name = std::move(name), .sizes = std::move(sizes), .type = type};
  tensor.data.resize(static_cast<std::size_t>(tensor.bytes()));
  try {
    quantize(type, narrow(values), tensor.data);
  } catch (const std::invalid_argument& error) {
    throw format_error("tensor " + tensor.name + ", converted: " + error.what());
  }
  return tensor;
}

OutputTensor matrix_tensor(const Gguf& file, const std::string& name, const Matrix& now, const Matrix& before,
                           Index dim, std::optional<TensorType> type) {
  const std::vector<Index> sizes{now.cols(), now.rows()};
  if (type) return encoded(name, sizes, type_for_rows(*type, now.cols()), now.values());
  const auto heads = heads_found(now, before, dim);
  if (!heads) return encoded(name, sizes, TensorType::f16, now.values());
  const GgufTensor& source = *file.find_tensor(name);
  OutputTensor tensor{.name = name, .sizes = sizes, .type = source.type};
  const std::size_t head_bytes = source.data.size() / static_cast<std::size_t>(before.rows() / dim);
  for (const Index head : *heads) {
    const auto bytes = source.data.subspan(static_cast<std::size_t>(head) * head_bytes, head_bytes);
    tensor.data.insert(tensor.data.end(), bytes.begin(), bytes.end());
  }
  return tensor;
}

}  // namespace

Weights read_attention(const Gguf& file, const generate::Hyperparameters& sizes, Index layer) {
  const auto matrix = [&](const char* part, Index rows, Index columns) {
    return read_matrix(file, tensor_name(layer, part, ".weight"), rows, columns);
  };
  Weights weights(
      matrix("attn_q", sizes.q_size(), sizes.model_dim), matrix("attn_k", sizes.k_size(), sizes.model_dim),
      matrix("attn_v", sizes.v_size(), sizes.model_dim),
      matrix("attn_output", sizes.model_dim, sizes.attention_size()), sizes.num_q_heads, sizes.num_kv_heads);
  const auto bias = [&](const char* part, Index size) {
    return read_bias(file, tensor_name(layer, part, ".bias"), size);
  };
  weights.bq = bias("attn_q", sizes.q_size());
  weights.bk = bias("attn_k", sizes.k_size());
  weights.bv = bias("attn_v", sizes.v_size());
  weights.bo = bias("attn_output", sizes.model_dim);
  return weights;
}

std::vector<OutputTensor> attention_tensors(const Gguf& file, Index layer, const Weights& source,
                                            const Weights& converted, std::optional<TensorType> type) {
  std::vector<OutputTensor> tensors;
  const auto add = [&](const char* part, const Matrix& now, const Matrix& before, Index dim,
                       const std::vector<double>& bias) {
    tensors.push_back(matrix_tensor(file, tensor_name(layer, part, ".weight"), now, before, dim, type));
    if (!bias.empty())
      tensors.push_back(
          encoded(tensor_name(layer, part, ".bias"), {std::ssize(bias)}, TensorType::f32, bias));
  };
  add("attn_q", converted.wq, source.wq, source.head_dim(), converted.bq);
  add("attn_k", converted.wk, source.wk, source.head_dim(), converted.bk);
  add("attn_v", converted.wv, source.wv, source.value_dim(), converted.bv);
  // Its heads are columns: all of it or none.
  add("attn_output", converted.wo, source.wo, source.wo.rows(), converted.bo);
  return tensors;
}

TensorType type_for_rows(TensorType type, Index columns) {
  const auto format = *generate::block_format(static_cast<std::uint32_t>(type));
  return columns % format.values == 0 ? type : TensorType::f16;
}

}  // namespace convert
