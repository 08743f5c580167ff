// SPDX-License-Identifier: Apache-2.0
// What weights are kept as, and what comes of it.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "program.hpp"
#include "session.hpp"
#include "tiny_session.hpp"

namespace generate {
namespace {

using test::GgufWriter;
using test::Program;

constexpr WeightType all_types[] = {WeightType::f32, WeightType::f16, WeightType::bf16};

TEST(WeightMatrix, KeepsValuesRoundedToTheNearest) {
  const std::vector<float> values = {0, -0.0F, 1, -2.5F, 0.1F, 1.0009765F, 3e-6F, -65504, 1e-30F};
  for (const WeightType type : all_types) {
    WeightMatrix matrix(type, 3, 3);
    EXPECT_EQ(matrix.fill(1, std::span(values).subspan(3)), std::nullopt);
    EXPECT_EQ(matrix.fill(0, std::span(values).first(3)), std::nullopt);
    EXPECT_EQ(matrix.bytes(), type == WeightType::f32 ? 36U : 18U);
    for (Index row = 0; row < 3; ++row) {
      std::vector<float> out(3);
      matrix.read_row(row, out);
      for (Index i = 0; i < 3; ++i) {
        const float value = values[static_cast<std::size_t>(3 * row + i)];
        const float expected = type == WeightType::f16    ? static_cast<float>(Eigen::half(value))
                               : type == WeightType::bf16 ? static_cast<float>(Eigen::bfloat16(value))
                                                          : value;
        EXPECT_EQ(out[static_cast<std::size_t>(i)], expected) << type_name(type) << " " << value;
      }
    }
  }
}

TEST(WeightMatrix, SaysWhatIsTooLarge) {
  const float infinity = std::numeric_limits<float>::infinity(), largest = std::numeric_limits<float>::max();
  const auto fill = [](WeightType type, std::vector<float> values) {
    return WeightMatrix(type, 1, std::ssize(values)).fill(0, values);
  };
  EXPECT_EQ(fill(WeightType::f16, {1, -65520, 2}), 65520);
  EXPECT_EQ(fill(WeightType::f16, {1, 65519, 2}), std::nullopt);  // rounds to the largest there is
  EXPECT_EQ(fill(WeightType::f16, {infinity, 7, std::nanf("")}), std::nullopt);
  EXPECT_EQ(fill(WeightType::f16, {std::nanf(""), 7e4F, 7e5F}), 7e5F);
  EXPECT_EQ(fill(WeightType::bf16, {7e4F, -largest}), largest);
  EXPECT_EQ(fill(WeightType::f32, {7e4F, -largest}), std::nullopt);
}

TEST(WeightMatrix, RefusesSizesThatOverflow) {
  const Index half = Index{1} << 32;
  EXPECT_THROW(WeightMatrix(WeightType::f32, half, half), std::length_error);
  EXPECT_THROW(WeightMatrix(WeightType::f16, half, half >> 1), std::length_error);
}

TEST(KeptAs, Takes16BitsWhereTheFileHasNoMore) {
  using enum TensorType;
  const auto kept = [](std::vector<TensorType> types) { return kept_as(types); };
  EXPECT_EQ(kept({f32}), WeightType::f32);
  EXPECT_EQ(kept({f16, f32, q4_0}), WeightType::f32);
  EXPECT_EQ(kept({bf16, bf16, bf16}), WeightType::bf16);
  EXPECT_EQ(kept({f16}), WeightType::f16);
  EXPECT_EQ(kept({bf16, f16}), WeightType::f16);
  for (const TensorType type : {q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k})
    EXPECT_EQ(kept({type, type}), WeightType::f16);
}

/// The tiny model with all its matrices of one type.
GgufWriter of_type(TensorType type) {
  auto writer = test::tiny_model();
  std::mt19937 random(5);
  for (auto tensor : std::exchange(writer.tensors, {})) {
    const bool matrix = tensor.sizes.size() == 2;
    const std::uint64_t count = tensor.sizes[0] * (matrix ? tensor.sizes[1] : 1);
    const auto kind = matrix ? type : static_cast<TensorType>(tensor.type);
    writer.tensor(tensor.name, tensor.sizes, kind, test::random_blocks(kind, count, random));
  }
  return writer;
}

struct Loaded {
  explicit Loaded(const GgufWriter& writer, std::optional<WeightType> weights = {})
      : bytes(writer.file()), file(bytes), model(file, executor, {.weights = weights}) {}

  Matrix scores() {
    const auto session = make_session(model, CacheType::f32, executor);
    session->append(test::some_tokens(70, 1));
    return session->all_logits();
  }

  std::vector<std::byte> bytes;
  Gguf file;
  Eigen::ThreadPool pool{2};
  gqa::PoolExecutor executor{pool};
  Model model;
};

// What the file holds in 16 bits is multiplied exactly: the same bits, in half the memory.
TEST(Weights, ThoseOf16BitsLoseNothing) {
  for (const auto& [type, name] : {std::pair(TensorType::f16, "f16"), std::pair(TensorType::bf16, "bf16"),
                                   std::pair(TensorType::f32, "f32")}) {
    const auto writer = of_type(type);
    Loaded wide(writer, WeightType::f32), kept(writer);
    EXPECT_EQ(kept.model.weight_types, name);
    EXPECT_EQ(kept.scores(), wide.scores()) << name;
    const std::size_t norms = 5 * 64 * 4, numbers = wide.model.num_weights - 5 * 64;
    EXPECT_EQ(wide.model.bytes, numbers * 4 + norms);
    EXPECT_EQ(kept.model.bytes, numbers * (type == TensorType::f32 ? 4 : 2) + norms);
  }
}

// Blocks hold products of an f16 and a small integer: f16 keeps three bits more of them than bf16.
TEST(Weights, F16ComesCloserToBlocksThanBf16) {
  for (const TensorType type : {TensorType::q4_0, TensorType::q4_1, TensorType::q5_1, TensorType::q8_0}) {
    const auto writer = of_type(type);
    const Matrix exact = Loaded(writer, WeightType::f32).scores();
    const auto error = [&](WeightType kept) {
      return (Loaded(writer, kept).scores() - exact).norm() / exact.norm();
    };
    const float f16 = error(WeightType::f16), bf16 = error(WeightType::bf16);
    EXPECT_EQ(Loaded(writer).model.weight_types, "f16");
    EXPECT_GT(f16, 0);
    EXPECT_LT(f16, 2e-3F);     // a handful of layers, each of 2^-11
    EXPECT_LT(4 * f16, bf16);  // 2^-8
    EXPECT_LT(bf16, 2e-2F);
  }
}

TEST(Weights, EachMatrixIsKeptByItsOwnTypes) {
  Loaded tiny{test::tiny_model()};  // of every type there is
  EXPECT_EQ(tiny.model.weight_types, "f32 and f16");
  const Layer& layer = tiny.model.layers[1];
  EXPECT_EQ(tiny.model.embedding.type(), WeightType::f16);  // Q8_0
  EXPECT_EQ(layer.qkv.weight.type(), WeightType::f16);      // Q4_0, Q4_1 and Q8_0
  EXPECT_EQ(layer.attention_output.weight.type(), WeightType::f16);
  EXPECT_EQ(layer.gate_up.weight.type(), WeightType::f32);  // BF16 and F32
  EXPECT_EQ(Loaded(test::tiny_model(), WeightType::bf16).model.weight_types, "bf16");
}

TEST(Weights, RefusesWhatTheyCannotHold) {
  auto writer = of_type(TensorType::f32);
  const float large = 70000;
  std::memcpy(writer.find("blk.1.attn_v.weight").data.data() + 40, &large, 4);
  EXPECT_EQ(Loaded(writer).model.weight_types, "f32");
  EXPECT_NO_THROW(Loaded(writer, WeightType::bf16));
  try {
    Loaded(writer, WeightType::f16);
    ADD_FAILURE() << "no error";
  } catch (const gqa::format_error& error) {
    EXPECT_STREQ(error.what(),
                 "tensor blk.1.attn_v.weight holds 70000, too large for weights kept as f16; f32 holds it");
  }
}

// Every byte of every tensor is said to be done with, once.
TEST(Weights, SayWhichBytesAreNotReadAgain) {
  const auto bytes = test::tiny_model().file();
  const Gguf file(bytes);
  Eigen::ThreadPool pool(1);
  std::size_t done = 0, all = 0;
  const Model model(file, gqa::PoolExecutor(pool),
                    {.done_with = [&](std::span<const std::byte> piece) { done += piece.size(); }});
  for (const auto& tensor : file.tensors()) all += tensor.data.size();
  EXPECT_EQ(done, all);
}

TEST_F(Program, KeepsWeightsAsItIsTold) {
  const auto run = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"--prompt", "the fox", "--max-tokens", "5"});
    return json(more);
  };
  const auto automatic = run({}), f32 = run({"--weights", "f32"}), bf16 = run({"--weights", "bf16"});
  EXPECT_EQ(automatic, [&] {
    auto same = run({"--weights", "auto"});
    for (const char* time : {"load_seconds", "prompt_seconds", "prompt_tokens_per_second",
                             "generation_seconds", "generation_tokens_per_second", "attention_share"})
      same[time] = automatic[time];
    return same;
  }());
  EXPECT_EQ(automatic["weight_dtype"], "f32 and f16");
  EXPECT_EQ(f32["weight_dtype"], "f32");
  EXPECT_EQ(bf16["weight_dtype"], "bf16");
  EXPECT_EQ(f32["weight_bytes"], f32["weights"].get<int>() * 4);
  EXPECT_EQ(bf16["weight_bytes"], (f32["weights"].get<int>() - 5 * 64) * 2 + 5 * 64 * 4);
  EXPECT_EQ(run_tiny({"--prompt", "x", "--weights", "f64"}).code, 2);
}

// Pages of the file that were given back come again when they are read.
TEST(MappedFile, ForgetsAndReadsAgain) {
  std::string name = testing::TempDir() + "mapped-XXXXXX";
  const int fd = ::mkstemp(name.data());
  ASSERT_GE(fd, 0);
  const std::string text(100'000, 'x');
  ASSERT_EQ(::write(fd, text.data(), text.size()), std::ssize(text));
  ::close(fd);
  const MappedFile file(name);
  const auto bytes = file.bytes();
  EXPECT_EQ(bytes[50'000], std::byte{'x'});
  file.forget(bytes);
  file.forget(bytes.subspan(5000, 17));
  file.forget(bytes.first(0));
  EXPECT_TRUE(std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{'x'}; }));
  std::filesystem::remove(name);
}

}  // namespace
}  // namespace generate
