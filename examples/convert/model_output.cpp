// SPDX-License-Identifier: Apache-2.0
#include "model_output.hpp"

#include <fcntl.h>

#include <string_view>
#include <unordered_map>
#include <utility>

#include "attention_tensors.hpp"

namespace convert {

OutputFile model_output(const Gguf& source, std::optional<TensorType> type,
                        std::vector<OutputTensor> changed) {
  OutputFile out{source, {}, {}};
  if (type) {
    // llama.cpp's numbers of these types as those of whole files.
    const std::uint32_t file_type = *type == TensorType::f32 ? 0 : *type == TensorType::f16 ? 1 : 7;
    out.integers.push_back({"general.file_type", file_type});
    if (*type == TensorType::q8_0) out.integers.push_back({"general.quantization_version", 2});
  }
  std::unordered_map<std::string_view, OutputTensor*> by_name;
  for (OutputTensor& tensor : changed) by_name.emplace(tensor.name, &tensor);
  for (const GgufTensor& tensor : source.tensors()) {
    const auto found = by_name.find(tensor.name);
    if (found != by_name.end()) {
      out.tensors.push_back(std::move(*found->second));
      continue;
    }
    const bool matrix = tensor.rows() > 1;
    out.tensors.push_back({.name = std::string(tensor.name),
                           .sizes = {tensor.sizes.begin(), tensor.sizes.begin() + tensor.num_dims},
                           .type = type && matrix ? type_for_rows(*type, tensor.columns()) : tensor.type,
                           .source = &tensor});
  }
  return out;
}

Index write_model(const OutputFile& output, gqa::detail::Replacement& target,
                  const std::function<void(double)>& progress) {
  const Index bytes = output.bytes();
  gqa::detail::File& file = target.file();
  // A disk that is too small is found before anything is written to it, where the file system can tell.
  if (const int error = ::posix_fallocate(file.descriptor(), 0, bytes);
      error != 0 && error != EINVAL && error != EOPNOTSUPP)
    gqa::detail::fail_on(file.path(), "cannot write", error);
  Index written = 0;
  output.write(
      file, [&](Index more) { progress(static_cast<double>(written += more) / static_cast<double>(bytes)); });
  return bytes;
}

}  // namespace convert
