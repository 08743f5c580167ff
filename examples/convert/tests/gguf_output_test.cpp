// SPDX-License-Identifier: Apache-2.0
#include "gguf_output.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <ranges>

#include "attention_tensors.hpp"
#include "tiny_model.hpp"

namespace convert {
namespace {

using generate::test::Bytes;
using generate::test::GgufWriter;

class Output : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "convert-XXXXXX";
    folder_ = ::mkdtemp(name.data());
    path_ = folder_ / "out.gguf";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::vector<std::byte> written(const OutputFile& output, const std::function<void(Index)>& progress = {}) {
    {
      gqa::detail::Replacement target(path_);
      output.write(target.file(), progress);
      target.commit();
    }
    std::ifstream file(path_, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
  }

  std::filesystem::path folder_, path_;
};

/// All tensors as they are.
std::vector<OutputTensor> all_of(const Gguf& file) {
  std::vector<OutputTensor> tensors;
  for (const GgufTensor& tensor : file.tensors())
    tensors.push_back({.name = std::string(tensor.name),
                       .sizes = {tensor.sizes.begin(), tensor.sizes.begin() + tensor.num_dims},
                       .type = tensor.type,
                       .source = &tensor});
  return tensors;
}

std::vector<float> values_of(const GgufTensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.rows() * tensor.columns()));
  generate::dequantize(tensor.type, tensor.data, values);
  return values;
}

TEST_F(Output, CopiesAFileByteForByte) {
  for (const std::uint32_t alignment : {32U, 64U, 8U, 1024U}) {
    GgufWriter writer = generate::test::tiny_model();
    if (alignment != 32) {
      writer.integer("general.alignment", alignment);
      writer.alignment = alignment;
      std::uint64_t offset = 0;
      for (auto& tensor : writer.tensors) {
        tensor.offset = offset;
        offset = (offset + tensor.data.size() + alignment - 1) / alignment * alignment;
      }
    }
    // Every type of value there is.
    for (const std::uint32_t type : {0U, 1U, 7U})
      writer.key("a." + std::to_string(type), type, Bytes().raw("\1"));
    for (const std::uint32_t type : {2U, 3U})
      writer.key("a." + std::to_string(type), type, Bytes().raw("ab"));
    for (const std::uint32_t type : {4U, 5U, 6U})
      writer.key("a." + std::to_string(type), type, Bytes().raw("abcd"));
    for (const std::uint32_t type : {10U, 11U, 12U})
      writer.key("a." + std::to_string(type), type, Bytes().raw("abcdefgh"));
    writer.key("a.nested", 9,
               Bytes()
                   .number(9U)
                   .number(std::uint64_t{2})
                   .number(4U)
                   .number(std::uint64_t{1})
                   .number(7U)
                   .number(8U)
                   .number(std::uint64_t{0}));
    auto bytes = writer.file();
    bytes.resize((bytes.size() + alignment - 1) / alignment *
                 alignment);  // other writers pad the last one too
    const Gguf file(bytes);
    const OutputFile output{file, {}, all_of(file)};
    Index reported = 0;
    EXPECT_TRUE(written(output, [&](Index more) { reported += more; }) == bytes);
    EXPECT_EQ(output.bytes(), std::ssize(bytes));
    Index sum = 0;
    for (const auto& tensor : output.tensors) sum += tensor.bytes();
    EXPECT_EQ(reported, sum);
  }
}

TEST_F(Output, ReplacesAndAddsIntegers) {
  const auto bytes = generate::test::tiny_model().file();
  const Gguf file(bytes);
  const OutputFile output{
      file, {{"llama.attention.head_count_kv", 1}, {"general.file_type", 7}}, all_of(file)};
  const auto changed_bytes = written(output);
  const Gguf changed(changed_bytes);
  EXPECT_EQ(changed.integer("llama.attention.head_count_kv"), 1);
  EXPECT_EQ(changed.integer("general.file_type"), 7);
  ASSERT_EQ(changed.keys().size(), file.keys().size() + 1);
  for (std::size_t i = 0; i < file.keys().size(); ++i) {
    EXPECT_EQ(changed.keys()[i], file.keys()[i]);
    if (file.keys()[i] != "llama.attention.head_count_kv") {
      EXPECT_TRUE(std::ranges::equal(changed.entry(i), file.entry(i))) << file.keys()[i];
    }
  }
}

TEST_F(Output, EncodesTensorsAnewAndTakesNewOnes) {
  const auto bytes = generate::test::tiny_model().file();
  const Gguf file(bytes);
  for (const TensorType type : {TensorType::f32, TensorType::f16, TensorType::q8_0}) {
    OutputFile output{file, {}, all_of(file)};
    for (OutputTensor& tensor : output.tensors)
      if (tensor.sizes.size() > 1) tensor.type = type;
    output.tensors[2].source = nullptr;
    output.tensors[2].sizes = {32, 3};
    output.tensors[2].type = TensorType::f32;
    output.tensors[2].data.resize(384);
    const auto changed_bytes = written(output);
    EXPECT_EQ(output.bytes(), std::ssize(changed_bytes));
    const Gguf changed(changed_bytes);
    ASSERT_EQ(changed.tensors().size(), file.tensors().size());
    EXPECT_EQ(changed.tensors()[2].shape(), "[32, 3]");
    EXPECT_EQ(values_of(changed.tensors()[2]), std::vector<float>(96, 0.0F));
    for (std::size_t i = 0; i < file.tensors().size(); ++i) {
      if (i == 2) continue;
      const auto before = values_of(file.tensors()[i]), after = values_of(changed.tensors()[i]);
      ASSERT_EQ(before.size(), after.size());
      EXPECT_EQ(changed.tensors()[i].num_dims, file.tensors()[i].num_dims);
      // The tests of quantize() say how near; here that none is another one's.
      for (std::size_t j = 0; j < before.size(); ++j)
        ASSERT_NEAR(after[j], before[j], type == TensorType::f32 ? 0 : 2e-3) << file.tensors()[i].name;
    }
  }
}

TEST_F(Output, RefusesWhatIsNoNumberOrFitsBadly) {
  auto writer = generate::test::tiny_model();
  auto& data = writer.find("blk.1.ffn_up.weight").data;
  const float wrong = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(data.data() + 4 * 5000, &wrong, 4);
  const auto bytes = writer.file();
  const Gguf file(bytes);
  OutputFile output{file, {}, all_of(file)};
  const auto refused = [&](const std::string& part) {
    try {
      written(output);
      ADD_FAILURE() << "expected: " << part;
    } catch (const gqa::format_error& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
    EXPECT_TRUE(std::filesystem::is_empty(folder_));
  };
  refused("tensor blk.1.ffn_up.weight: value 5000 is nan");
  const float large = 1e5;
  std::memcpy(data.data() + 4 * 5000, &large, 4);
  const auto large_bytes = writer.file();
  const Gguf large_file(large_bytes);
  OutputFile halves{large_file, {}, all_of(large_file)};
  for (OutputTensor& tensor : halves.tensors)
    if (tensor.sizes.size() > 1) tensor.type = TensorType::f16;
  EXPECT_THROW(written(halves), gqa::format_error);
  output.tensors.front().sizes = {20, 3};
  output.tensors.front().type = TensorType::q8_0;
  refused("rows of 20 values");
}

TEST_F(Output, StopsWhereItIsTold) {
  const auto bytes = generate::test::tiny_model().file();
  const Gguf file(bytes);
  std::ofstream(path_) << "what was there";
  EXPECT_THROW(written({file, {}, all_of(file)}, [](Index) { throw std::runtime_error("stop"); }),
               std::runtime_error);
  std::ifstream kept(path_);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(kept), {}), "what was there");
  EXPECT_EQ(std::ranges::distance(std::filesystem::directory_iterator(folder_)), 1);
}

TEST(OutputTypes, RowsThatAreNoWholeBlocksAreF16) {
  EXPECT_EQ(type_for_rows(TensorType::q8_0, 64), TensorType::q8_0);
  EXPECT_EQ(type_for_rows(TensorType::q8_0, 72), TensorType::f16);
  EXPECT_EQ(type_for_rows(TensorType::f32, 72), TensorType::f32);
}

}  // namespace
}  // namespace convert
