// SPDX-License-Identifier: Apache-2.0
#include "gguf.hpp"

#include <gtest/gtest.h>

#include "gguf_writer.hpp"
#include "gqa/core/error.hpp"
#include "tiny_model.hpp"

namespace generate {
namespace {

using test::Bytes;
using test::GgufWriter;

GgufWriter small_file() {
  GgufWriter writer;
  writer.integer("int", 7);
  writer.key("long", 10, Bytes().number(std::uint64_t{1} << 40));
  writer.key("negative", 1, Bytes().number(std::int8_t{-3}));
  writer.real("real", 0.5F);
  writer.boolean("yes", true);
  writer.text("text", "h\u00e9llo");
  writer.texts("texts", {"a", "", "ccc"});
  writer.numbers<std::int16_t>("numbers", 3, {1, -2, 3});
  writer.numbers<float>("reals", 6, {0.25F, -1});
  writer.key("nested", 9,
             Bytes()
                 .number<std::uint32_t>(9)
                 .number<std::uint64_t>(1)
                 .number<std::uint32_t>(0)
                 .number<std::uint64_t>(2)
                 .raw("xy"));
  std::mt19937 random(1);
  writer.tensor("a", {32, 3}, TensorType::q4_0, test::random_blocks(TensorType::q4_0, 96, random));
  writer.tensor("b", {5}, TensorType::f32, test::random_blocks(TensorType::f32, 5, random));
  return writer;
}

/// The message of the format_error that reading the bytes gives. They are copied to memory of exactly their
/// size, so that the sanitizers see a read past the end.
std::string error_of(std::vector<std::byte> bytes) {
  bytes.shrink_to_fit();
  try {
    const Gguf file(bytes);
  } catch (const gqa::format_error& error) {
    return error.what();
  }
  return "no error";
}

void expect_error(const std::vector<std::byte>& bytes, const std::string& part) {
  const std::string error = error_of(bytes);
  EXPECT_NE(error.find(part), std::string::npos) << error << "\nexpected: " << part;
}

void expect_error(const GgufWriter& writer, const std::string& part) { expect_error(writer.file(), part); }

TEST(Gguf, ReadsEveryKindOfValue) {
  const auto bytes = small_file().file();
  const Gguf file(bytes);
  EXPECT_EQ(file.integer("int"), 7);
  EXPECT_EQ(file.integer("long"), Index{1} << 40);
  EXPECT_EQ(file.integer("negative"), -3);
  EXPECT_EQ(file.real("real"), 0.5);
  EXPECT_EQ(file.real("int"), 7.0);
  EXPECT_TRUE(file.boolean("yes", false));
  EXPECT_EQ(file.text("text"), "h\u00e9llo");
  EXPECT_EQ(file.texts("texts"), (std::vector<std::string_view>{"a", "", "ccc"}));
  EXPECT_EQ(file.integers("numbers"), (std::vector<std::int32_t>{1, -2, 3}));
  EXPECT_EQ(file.reals("reals"), (std::vector<float>{0.25F, -1}));
  EXPECT_EQ(file.integer("absent", 4), 4);
  EXPECT_EQ(file.keys().size(), 10U);
}

TEST(Gguf, RefusesMissingKeysAndOtherKinds) {
  const auto bytes = small_file().file();
  const Gguf file(bytes);
  EXPECT_THROW(file.integer("absent"), gqa::format_error);
  EXPECT_THROW(file.integer("text"), gqa::format_error);
  EXPECT_THROW(file.integer("real"), gqa::format_error);
  EXPECT_THROW(file.text("int"), gqa::format_error);
  EXPECT_THROW(file.texts("numbers"), gqa::format_error);
  EXPECT_THROW(file.integers("reals"), gqa::format_error);
  EXPECT_THROW(file.integers("texts"), gqa::format_error);
  EXPECT_THROW(file.boolean("int", false), gqa::format_error);
}

TEST(Gguf, FindsTensors) {
  const auto writer = small_file();
  const auto bytes = writer.file();
  const Gguf file(bytes);
  ASSERT_EQ(file.tensors().size(), 2U);
  const GgufTensor* a = file.find_tensor("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->columns(), 32);
  EXPECT_EQ(a->rows(), 3);
  EXPECT_EQ(a->shape(), "[32, 3]");
  EXPECT_EQ(std::vector(a->data.begin(), a->data.end()), writer.tensors[0].data);
  const GgufTensor* b = file.find_tensor("b");
  EXPECT_EQ(std::vector(b->data.begin(), b->data.end()), writer.tensors[1].data);
  EXPECT_EQ(file.find_tensor("c"), nullptr);
}

TEST(Gguf, ReadsVersion2AndOtherAlignments) {
  auto writer = small_file();
  writer.version = 2;
  writer.tensors.clear();
  writer.alignment = 8;
  writer.integer("general.alignment", 8);
  writer.tensor("b", {2}, TensorType::f32, std::vector<std::byte>(8));
  writer.tensor("c", {2}, TensorType::f32, std::vector<std::byte>(8, std::byte{1}));
  const auto bytes = writer.file();
  EXPECT_EQ(Gguf(bytes).find_tensor("c")->data[0], std::byte{1});
}

TEST(Gguf, RefusesAFileCutAnywhere) {
  const auto bytes = small_file().file();
  EXPECT_EQ(error_of(bytes), "no error");
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_NE(error_of({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)}), "no error")
        << size;
  }
}

TEST(Gguf, RefusesWrongMagicVersionAndCounts) {
  auto writer = small_file();
  writer.magic = "GGUP";
  expect_error(writer, "magic");
  for (const std::uint32_t version : {0U, 1U, 4U, 0x03000000U}) {
    writer = small_file();
    writer.version = version;
    expect_error(writer, "GGUF version " + std::to_string(version));
  }
  for (const std::uint64_t extra : {std::uint64_t{1}, std::uint64_t{1} << 20, ~std::uint64_t{20}}) {
    writer = small_file();
    writer.extra_keys = extra;
    EXPECT_NE(error_of(writer.file()), "no error");
    writer = small_file();
    writer.extra_tensors = extra;
    EXPECT_NE(error_of(writer.file()), "no error");
  }
}

TEST(Gguf, RefusesWrongValueTypesAndLengths) {
  auto writer = small_file();
  writer.key("odd", 13, Bytes().number(0));
  expect_error(writer, "odd is of unknown value type 13");
  writer = small_file();
  writer.key("odd", 9, Bytes().number<std::uint32_t>(99).number<std::uint64_t>(1));
  expect_error(writer, "unknown value type 99");
  for (const std::uint32_t type : {0U, 5U, 8U, 9U, 12U}) {
    writer = small_file();
    writer.key("odd", 9, Bytes().number(type).number(~std::uint64_t{0} / 4));
    expect_error(writer, "odd claims");
  }
  writer = small_file();
  writer.key("odd", 8, Bytes().number(~std::uint64_t{0}));
  expect_error(writer, "the file ends inside odd");
  writer = small_file();
  Bytes nested;
  for (int depth = 0; depth < 1000; ++depth) nested.number<std::uint32_t>(9).number<std::uint64_t>(1);
  writer.key("odd", 9, nested);
  expect_error(writer, "nests arrays deeper");
}

TEST(Gguf, RefusesKeysAndTensorsThatAppearTwice) {
  auto writer = small_file();
  writer.tensors.push_back(writer.tensors[0]);
  expect_error(writer, "tensor a appears twice");
  GgufWriter twice;
  twice.key("a", 4, Bytes().number(1).string("a").number<std::uint32_t>(4).number(2));
  twice.extra_keys = 1;
  expect_error(twice, "key a appears twice");
}

TEST(Gguf, RefusesTensorsThatCannotBe) {
  const auto changed = [](auto change) {
    auto writer = small_file();
    const auto original = writer.file();
    const auto data = std::ssize(writer.header());
    change(writer.tensors[0]);
    auto bytes = writer.header();
    bytes.insert(bytes.end(), original.begin() + data, original.end());
    return bytes;
  };
  using T = GgufWriter::Tensor;
  expect_error(changed([](T& t) { t.type = 11; }), "a is of type Q3_K, which is not supported");
  expect_error(changed([](T& t) { t.type = 4; }), "unknown type 4");
  expect_error(changed([](T& t) { t.sizes = {}; }), "a has 0 dimensions");
  expect_error(changed([](T& t) { t.sizes = {1, 1, 1, 1, 1}; }), "a has 5 dimensions");
  expect_error(changed([](T& t) { t.sizes = {32, 0}; }), "size 0 in dimension 1");
  expect_error(changed([](T& t) { t.sizes = {33, 3}; }), "no whole number of Q4_0 blocks");
  expect_error(changed([](T& t) { t.sizes = {std::uint64_t{1} << 63, 3}; }), "size 9223372036854775808");
  expect_error(changed([](T& t) { t.sizes = {1U << 30, 1U << 30, 1U << 30, 1U << 30}; }), "overflow");
  expect_error(changed([](T& t) { t.sizes = {32, 1U << 20}; }), "past the end");
  expect_error(changed([](T& t) { t.offset = 8; }), "the offset 8 is no multiple of 32");
  expect_error(changed([](T& t) { t.offset = 1 << 20; }), "past the end");
  expect_error(changed([](T& t) { t.offset = ~std::uint64_t{31}; }), "past the end");
}

TEST(Gguf, ShowsItsKeysBeforeTheTensorsAreRead) {
  auto writer = small_file();
  writer.tensors[0].type = 12;
  const auto bytes = writer.file();
  const auto check = [](const Gguf& metadata) {
    EXPECT_EQ(metadata.integer("int"), 7);
    EXPECT_TRUE(metadata.tensors().empty());
    throw std::domain_error("not this one");
  };
  EXPECT_THROW(Gguf(bytes, check), std::domain_error);
  EXPECT_THROW(Gguf(bytes, [](const Gguf&) {}), gqa::format_error);
}

TEST(Gguf, RefusesWrongAlignment) {
  for (const std::uint32_t alignment : {0U, 1U, 12U, 1U << 31}) {
    auto writer = small_file();
    writer.integer("general.alignment", alignment);
    expect_error(writer, "general.alignment is " + std::to_string(alignment));
  }
}

}  // namespace
}  // namespace generate
