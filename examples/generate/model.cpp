// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include <algorithm>
#include <array>
#include <mutex>
#include <string>
#include <unordered_set>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "gqa/core/error.hpp"

namespace generate {
namespace {

using gqa::format_error;

/// Rows of a tensor that one task decodes: into memory of floats, or into rows of a matrix.
struct Piece {
  const GgufTensor* tensor;
  Index first_row;
  Index num_rows;
  float* vector;
  WeightMatrix* matrix;
  Index matrix_row;

  std::size_t num_values() const { return static_cast<std::size_t>(num_rows * tensor->columns()); }
  std::span<const std::byte> bytes() const {
    const std::size_t row = tensor->data.size() / static_cast<std::size_t>(tensor->rows());
    return tensor->data.subspan(static_cast<std::size_t>(first_row) * row,
                                static_cast<std::size_t>(num_rows) * row);
  }
};

void decode(const Piece& piece) {
  if (piece.matrix == nullptr) {
    dequantize(piece.tensor->type, piece.bytes(), {piece.vector, piece.num_values()});
    return;
  }
  std::vector<float> values(piece.num_values());
  dequantize(piece.tensor->type, piece.bytes(), values);
  const auto too_large = piece.matrix->fill(piece.matrix_row, values);
  GQA_CHECK(!too_large, format_error,
            "tensor " << piece.tensor->name << " holds " << *too_large << ", too large for weights kept as "
                      << type_name(piece.matrix->type()) << "; f32 holds it");
}

/// Looks tensors up, checks their shapes and remembers where their values go. Nothing is decoded until all
/// are known to be there.
class Plan {
 public:
  Plan(const Gguf& file, std::optional<WeightType> weights) : file_(file), weights_(weights) {}

  /// Plans the vector `name`.
  void vector(const std::string& name, Index size, Vector& destination) {
    const GgufTensor& tensor = take(name, size, 1);
    destination.resize(size);
    add(tensor, {.vector = destination.data()});
  }

  struct Part {
    std::string name;
    Index rows;
  };

  /// Plans a matrix made of one or more tensors on top of each other.
  void matrix(const std::vector<Part>& parts, Index columns, WeightMatrix& destination) {
    Index rows = 0;
    std::vector<TensorType> types;
    // The file must hold what is about to be allocated.
    for (const Part& part : parts) {
      rows += part.rows;
      types.push_back(find(part.name + ".weight", columns, part.rows).type);
    }
    destination = WeightMatrix(weights_.value_or(kept_as(types)), rows, columns);
    Index row = 0;
    for (const Part& part : parts) {
      add(take(part.name + ".weight", columns, part.rows), {.matrix = &destination, .matrix_row = row});
      row += part.rows;
    }
  }

  /// Plans a linear layer made of such. Biases are optional: where only some parts have one, those of the
  /// others are zero.
  void linear(const std::vector<Part>& parts, Index columns, Linear& destination) {
    matrix(parts, columns, destination.weight);
    const auto has_bias = [&](const Part& part) { return file_.find_tensor(part.name + ".bias") != nullptr; };
    if (std::ranges::none_of(parts, has_bias)) return;
    destination.bias = Vector::Zero(destination.weight.rows());
    Index row = 0;
    for (const Part& part : parts) {
      if (has_bias(part))
        add(take(part.name + ".bias", part.rows, 1), {.vector = destination.bias.data() + row});
      row += part.rows;
    }
  }

  /// Throws where the file has no tensor of that name.
  void require(const std::string& name) const {
    GQA_CHECK(file_.find_tensor(name) != nullptr, format_error, "tensor " << name << " is missing");
  }

  void refuse_unused(std::string_view architecture) const {
    for (const GgufTensor& tensor : file_.tensors()) {
      GQA_CHECK(used_.contains(tensor.name) || tensor.name == "rope_freqs.weight", format_error,
                "tensor " << tensor.name << " is not part of a " << architecture
                          << " model as this program knows it");
    }
  }

  void run(gqa::PoolExecutor executor, const LoadOptions& options, Model& model) const {
    std::size_t done = 0;
    for (const Piece& piece : pieces_) model.num_weights += piece.num_values();
    std::mutex mutex;
    executor.parallel_for(std::ssize(pieces_), [&](Index i) {
      const Piece& piece = pieces_[static_cast<std::size_t>(i)];
      decode(piece);
      if (options.done_with) options.done_with(piece.bytes());
      const std::lock_guard lock(mutex);
      done += piece.num_values();
      if (options.progress)
        options.progress(static_cast<double>(done) / static_cast<double>(model.num_weights));
    });
  }

 private:
  const GgufTensor& find(const std::string& name, Index columns, Index rows) const {
    require(name);
    const GgufTensor* tensor = file_.find_tensor(name);
    GQA_CHECK(
        tensor->columns() == columns && tensor->rows() == rows, format_error,
        "tensor " << name << " is " << tensor->shape() << ", expected [" << columns << ", " << rows << "]");
    return *tensor;
  }

  const GgufTensor& take(const std::string& name, Index columns, Index rows) {
    const GgufTensor& tensor = find(name, columns, rows);
    used_.insert(tensor.name);
    return tensor;
  }

  struct Destination {
    float* vector = nullptr;
    WeightMatrix* matrix = nullptr;
    Index matrix_row = 0;
  };

  void add(const GgufTensor& tensor, const Destination& to) {
    // About a megabyte of results: enough work for a task, and enough tasks for the threads.
    const Index step = std::max<Index>(1, (Index{1} << 18) / tensor.columns());
    for (Index row = 0; row < tensor.rows(); row += step)
      pieces_.push_back({.tensor = &tensor,
                         .first_row = row,
                         .num_rows = std::min(step, tensor.rows() - row),
                         .vector = to.vector == nullptr ? nullptr : to.vector + row * tensor.columns(),
                         .matrix = to.matrix,
                         .matrix_row = to.matrix_row + row});
  }

  const Gguf& file_;
  std::optional<WeightType> weights_;
  std::vector<Piece> pieces_;
  std::unordered_set<std::string_view> used_;
};

}  // namespace

Model::Model(const Gguf& file, gqa::PoolExecutor executor, const LoadOptions& options)
    : sizes(read_hyperparameters(file)) {
  Plan plan(file, options.weights);
  plan.matrix({{"token_embd", sizes.vocabulary_size}}, sizes.model_dim, embedding);
  plan.vector("output_norm.weight", sizes.model_dim, output_norm);
  if (file.find_tensor("output.weight") != nullptr) {
    plan.linear({{"output", sizes.vocabulary_size}}, sizes.model_dim, separate_output);
  }
  // Each layer has tensors of its own, so a count of layers beyond that of tensors is a lie.
  GQA_CHECK(sizes.num_layers <= std::ssize(file.tensors()), format_error,
            sizes.architecture->name << ".block_count is " << sizes.num_layers << ", but there are "
                                     << file.tensors().size() << " tensors");
  const Architecture& architecture = *sizes.architecture;
  layers.resize(static_cast<std::size_t>(sizes.num_layers));
  for (std::size_t i = 0; i < layers.size(); ++i) {
    Layer& layer = layers[i];
    const std::string block = "blk." + std::to_string(i) + ".";
    plan.vector(block + "attn_norm.weight", sizes.model_dim, layer.attention_norm);
    plan.linear({{block + "attn_q", sizes.q_size()},
                 {block + "attn_k", sizes.k_size()},
                 {block + "attn_v", sizes.v_size()}},
                sizes.model_dim, layer.qkv);
    if (architecture.qkv_bias)
      for (const char* part : {"attn_q.bias", "attn_k.bias", "attn_v.bias"}) plan.require(block + part);
    if (architecture.qk_norm) {
      plan.vector(block + "attn_q_norm.weight", sizes.head_dim, layer.q_norm);
      plan.vector(block + "attn_k_norm.weight", sizes.head_dim, layer.k_norm);
    }
    if (architecture.post_norms) {
      plan.vector(block + "post_attention_norm.weight", sizes.model_dim, layer.attention_post_norm);
      plan.vector(block + "post_ffw_norm.weight", sizes.model_dim, layer.ffn_post_norm);
    }
    plan.linear({{block + "attn_output", sizes.model_dim}}, sizes.attention_size(), layer.attention_output);
    plan.vector(block + "ffn_norm.weight", sizes.model_dim, layer.ffn_norm);
    plan.linear({{block + "ffn_gate", sizes.ffn_dim}, {block + "ffn_up", sizes.ffn_dim}}, sizes.model_dim,
                layer.gate_up);
    plan.linear({{block + "ffn_down", sizes.model_dim}}, sizes.ffn_dim, layer.down);
  }
  plan.refuse_unused(architecture.name);
  plan.run(executor, options, *this);
  sum_up();
}

void Model::sum_up() {
  std::size_t in_matrices = 0;
  std::array<bool, 3> kept{};
  const auto count = [&](const WeightMatrix& matrix) {
    if (matrix.empty()) return;
    in_matrices += static_cast<std::size_t>(matrix.rows() * matrix.columns());
    bytes += matrix.bytes();
    kept[static_cast<std::size_t>(matrix.type())] = true;
  };
  count(embedding);
  count(separate_output.weight);
  for (const Layer& layer : layers)
    for (const Linear* each : {&layer.qkv, &layer.attention_output, &layer.gate_up, &layer.down})
      count(each->weight);
  bytes += (num_weights - in_matrices) * sizeof(float);
  for (std::size_t i = 0; i < kept.size(); ++i)
    if (kept[i])
      weight_types +=
          (weight_types.empty() ? "" : " and ") + std::string(type_name(static_cast<WeightType>(i)));
}

}  // namespace generate
