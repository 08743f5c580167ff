// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include <atomic>
#include <mutex>
#include <string>
#include <unordered_set>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "gqa/core/error.hpp"

namespace generate {
namespace {

using gqa::format_error;

/// Rows of a tensor that one task decodes.
struct Piece {
  const GgufTensor* tensor;
  Index first_row;
  Index num_rows;
  float* destination;
};

/// Looks tensors up, checks their shapes and remembers where their values go. Nothing is decoded until all
/// are known to be there.
class Plan {
 public:
  explicit Plan(const Gguf& file) : file_(file) {}

  /// Plans the vector `name`.
  void vector(const std::string& name, Index size, Vector& destination) {
    const GgufTensor& tensor = take(name, size, 1);
    destination.resize(size);
    decode(tensor, destination.data());
  }

  struct Part {
    std::string name;
    Index rows;
  };

  /// Plans a linear layer made of one or more layers on top of each other. Biases are optional: where only
  /// some parts have one, those of the others are zero.
  void linear(const std::vector<Part>& parts, Index columns, Linear& destination) {
    Index rows = 0;
    bool has_bias = false;
    for (const Part& part : parts) {
      rows += part.rows;
      has_bias = has_bias || file_.find_tensor(part.name + ".bias") != nullptr;
    }
    // The file must hold what is about to be allocated.
    for (const Part& part : parts) find(part.name + ".weight", columns, part.rows);
    destination.weight.resize(rows, columns);
    if (has_bias) destination.bias = Vector::Zero(rows);
    Index row = 0;
    for (const Part& part : parts) {
      decode(take(part.name + ".weight", columns, part.rows), destination.weight.data() + row * columns);
      if (file_.find_tensor(part.name + ".bias") != nullptr) {
        decode(take(part.name + ".bias", part.rows, 1), destination.bias.data() + row);
      }
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

  std::size_t run(gqa::PoolExecutor executor, const Progress& progress) const {
    std::size_t total = 0, done = 0;
    for (const Piece& piece : pieces_) total += num_values(piece);
    std::mutex mutex;
    executor.parallel_for(std::ssize(pieces_), [&](Index i) {
      const Piece& piece = pieces_[static_cast<std::size_t>(i)];
      const std::size_t row_bytes =
          piece.tensor->data.size() / static_cast<std::size_t>(piece.tensor->rows());
      dequantize(piece.tensor->type,
                 piece.tensor->data.subspan(static_cast<std::size_t>(piece.first_row) * row_bytes,
                                            static_cast<std::size_t>(piece.num_rows) * row_bytes),
                 {piece.destination, num_values(piece)});
      const std::lock_guard lock(mutex);
      done += num_values(piece);
      if (progress) progress(static_cast<double>(done) / static_cast<double>(total));
    });
    return total;
  }

 private:
  static std::size_t num_values(const Piece& piece) {
    return static_cast<std::size_t>(piece.num_rows * piece.tensor->columns());
  }

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

  void decode(const GgufTensor& tensor, float* destination) {
    // About a megabyte of results: enough work for a task, and enough tasks for the threads.
    const Index step = std::max<Index>(1, (Index{1} << 18) / tensor.columns());
    for (Index row = 0; row < tensor.rows(); row += step) {
      pieces_.push_back(
          {&tensor, row, std::min(step, tensor.rows() - row), destination + row * tensor.columns()});
    }
  }

  const Gguf& file_;
  std::vector<Piece> pieces_;
  std::unordered_set<std::string_view> used_;
};

}  // namespace

Model::Model(const Gguf& file, gqa::PoolExecutor executor, const Progress& progress)
    : sizes(read_hyperparameters(file)) {
  Plan plan(file);
  Linear table;
  plan.linear({{"token_embd", sizes.vocabulary_size}}, sizes.model_dim, table);
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
  num_weights = plan.run(executor, progress);
  embedding.swap(table.weight);
}

}  // namespace generate
