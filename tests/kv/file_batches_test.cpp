// SPDX-License-Identifier: Apache-2.0
// Files of caches of several sequences: they come back to the same bits, or are refused and change nothing.
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "gqa/attention.hpp"
#include "gqa/kv/batch.hpp"
#include "gqa/kv/cross.hpp"
#include "gqa/kv/file.hpp"
#include "gqa/kv/mapped_prefix.hpp"
#include "kv/counted_memory.hpp"
#include "kv/file_case.hpp"
#include "support/message_of.hpp"

namespace gqa {
namespace {

using test::Bytes;
using test::message_of;
using test::random_values;

constexpr Index layers = 2, heads = 2, dim = 7, value_dim = 5;
using Lengths = std::vector<Index>;

template <class T>
TensorView<const T> part(const std::vector<T>& all, Index begin, Index n, Index width) {
  return {all.data() + begin * heads * width, n, heads, width};
}
/// Keys or values of the first tokens of a sequence: the same ones wherever they are asked for.
template <class T>
std::vector<T> tokens_of(std::uint64_t seed, Index layer, Index seq, Index n, Index width) {
  return random_values<T>(seed * 100 + static_cast<std::uint64_t>(10 * layer + seq), n * heads * width);
}

template <class T>
BatchCache<T> batch_of(Index seqs, Index max_tokens = 700, Index limit = 0) {
  return BatchCache<T>({.num_seqs = seqs,
                        .max_tokens = max_tokens,
                        .num_layers = layers,
                        .num_kv_heads = heads,
                        .head_dim = dim,
                        .value_dim = value_dim,
                        .memory_limit = limit});
}
template <class T>
CrossCache<T> cross_of(const Lengths& lengths, Index limit = 0) {
  return CrossCache<T>({.tokens = lengths,
                        .num_layers = layers,
                        .num_kv_heads = heads,
                        .head_dim = dim,
                        .value_dim = value_dim,
                        .memory_limit = limit});
}

template <class T>
void add(BatchCache<T>& cache, const Lengths& more, std::uint64_t seed, Index last_layer = layers) {
  const auto spans = cache.extend(more);
  for (Index layer = 0; layer < last_layer; ++layer) {
    std::vector<T> k, v;
    Lengths offsets = {0};
    for (std::size_t seq = 0; seq < spans.size(); ++seq) {
      const Range at = spans[seq].positions;
      const auto ks = tokens_of<T>(seed, layer, static_cast<Index>(seq), at.end, dim);
      const auto vs = tokens_of<T>(seed + 1, layer, static_cast<Index>(seq), at.end, value_dim);
      k.insert(k.end(), ks.begin() + at.begin * heads * dim, ks.end());
      v.insert(v.end(), vs.begin() + at.begin * heads * value_dim, vs.end());
      offsets.push_back(offsets.back() + at.size());
    }
    cache.write(layer, spans, ragged(part(k, 0, offsets.back(), dim), offsets),
                ragged(part(v, 0, offsets.back(), value_dim), offsets));
  }
}
template <class T>
void fill(CrossCache<T>& cache, std::uint64_t seed) {
  for (Index layer = 0; layer < layers; ++layer)
    for (Index seq = 0; seq < cache.num_seqs(); ++seq) {
      const Index n = cache.size(seq);
      cache.write(layer, seq, part(tokens_of<T>(seed, layer, seq, n, dim), 0, n, dim),
                  part(tokens_of<T>(seed + 1, layer, seq, n, value_dim), 0, n, value_dim));
    }
}
template <class T>
BatchCache<T> batch_with(const Lengths& lengths, std::uint64_t seed) {
  auto cache = batch_of<T>(std::ssize(lengths));
  add(cache, lengths, seed);
  return cache;
}
template <class T>
CrossCache<T> cross_with(const Lengths& lengths, std::uint64_t seed) {
  auto cache = cross_of<T>(lengths);
  fill(cache, seed);
  return cache;
}

/// The bits of attention of one query a sequence over each layer.
template <class C>
std::vector<Bytes> attend(const C& cache) {
  using T = typename C::Scalar;
  std::vector<Bytes> all;
  const Index B = cache.num_seqs();
  const auto q = random_values<T>(77, B * 6 * dim);
  for (Index layer = 0; layer < cache.num_layers(); ++layer) {
    std::vector<T> out(static_cast<std::size_t>(B * 6 * value_dim));
    attention(TensorView<const T>(q.data(), B, 1, 6, dim), cache.layer(layer),
              TensorView<T>(out.data(), B, 1, 6, value_dim));
    Bytes bytes(out.size() * sizeof(T));
    std::memcpy(bytes.data(), static_cast<const void*>(out.data()), bytes.size());
    all.push_back(std::move(bytes));
  }
  return all;
}

class FileBatches : public ::testing::Test {
 protected:
  template <class C>
  std::string refusal(C& cache) {
    const auto before = attend(cache);
    std::string message = message_of<format_error>([&] { restore(cache, path_); });
    EXPECT_TRUE(attend(cache) == before) << message;
    return message.substr(std::min(message.size(), path_.string().size() + 2));
  }

  template <class T>
  void expect_batches_come_back() {
    for (const Lengths& lengths : {Lengths{1}, {65, 0, 7, 600}, {64, 63, 64}, {0, 0}, {513}}) {
      auto cache = batch_with<T>(lengths, 1);
      save(cache, path_, {.label = "a"});
      const FileDescription is = describe_file(path_);
      EXPECT_EQ(is.num_seqs, std::ssize(lengths));
      EXPECT_EQ(is.tokens, std::ranges::max(lengths));
      ASSERT_EQ(is.layers.size(), static_cast<std::size_t>(layers));
      auto back = batch_of<T>(std::ssize(lengths));
      add(back, Lengths(lengths.size(), 100), 5);
      const auto view = back.layer(0);
      restore(back, path_, {.label = "a"});
      EXPECT_THROW(view.retained(0), std::invalid_argument) << "it is of what was there before";
      for (std::size_t seq = 0; seq < lengths.size(); ++seq) {
        EXPECT_EQ(back.size(static_cast<Index>(seq)), lengths[seq]);
        EXPECT_EQ(is.layers[1].retained.at(seq), (Range{0, lengths[seq]}));
      }
      EXPECT_EQ(back.allocated_bytes(), cache.allocated_bytes());
      EXPECT_TRUE(attend(back) == attend(cache));
      EXPECT_TRUE(attend(MappedPrefix<T>(path_)) == attend(cache));
      for (auto* each : {&cache, &back}) add(*each, Lengths(lengths.size(), 3), 1);
      EXPECT_TRUE(attend(back) == attend(cache));
    }
  }
  template <class T>
  void expect_cross_caches_come_back() {
    for (const Lengths& lengths : {Lengths{1}, {65, 0, 7, 600}, {64, 63, 64}, {0, 0}, {513}}) {
      const auto cache = cross_with<T>(lengths, 1);
      save(cache, path_);
      auto back = cross_of<T>(Lengths(lengths.size(), 9));
      const auto view = back.layer(1);
      restore(back, path_);
      EXPECT_TRUE(back.complete());
      for (std::size_t seq = 0; seq < lengths.size(); ++seq) {
        EXPECT_EQ(back.size(static_cast<Index>(seq)), lengths[seq]);
        EXPECT_EQ(view.retained(static_cast<Index>(seq)), (Range{0, lengths[seq]}));
      }
      EXPECT_EQ(back.allocated_bytes(), cache.allocated_bytes());
      EXPECT_TRUE(attend(back) == attend(cache));
      EXPECT_TRUE(attend(MappedPrefix<T>(path_)) == attend(cache));
      const std::vector<T> one(heads * dim, T(1));
      back.reset(0, 1);
      EXPECT_FALSE(back.complete());
      back.write(0, 0, part(one, 0, 1, dim), part(one, 0, 1, value_dim));
    }
  }

  test::Folder folder_;
  std::filesystem::path path_ = folder_ / "cache";
};

TEST_F(FileBatches, OfABatchComeBack) {
  expect_batches_come_back<float>();
  expect_batches_come_back<bfloat16>();
}
TEST_F(FileBatches, OfACrossCacheComeBack) {
  expect_cross_caches_come_back<float>();
  expect_cross_caches_come_back<bfloat16>();
}

TEST_F(FileBatches, OfOneKindComeBackInAnother) {
  const auto batch = batch_with<half>({70, 3}, 1);
  save(batch, path_);
  auto cross = cross_of<half>({1, 1});
  restore(cross, path_);
  EXPECT_TRUE(attend(cross) == attend(batch));
  // One sequence alone is the same file, whoever holds it.
  save(batch_with<half>({70}, 1), path_);
  KVCache<half> one({.max_tokens = 70,
                     .num_layers = layers,
                     .num_kv_heads = heads,
                     .head_dim = dim,
                     .value_dim = value_dim});
  restore(one, path_);
  EXPECT_EQ(one.size(), 70);
  save(one, folder_ / "again");
  EXPECT_TRUE(test::read_bytes(path_) == test::read_bytes(folder_ / "again"));
}

TEST_F(FileBatches, OfAPassThatIsUnderWay) {
  auto cache = batch_with<float>({70, 3}, 1);
  add(cache, {2, 65}, 1, 1);
  save(cache, path_);
  auto back = batch_of<float>(2);
  restore(back, path_);
  EXPECT_EQ(back.size(0), 72);
  EXPECT_EQ(back.size(1), 68);
  EXPECT_EQ(back.layer(1).retained(1), (Range{0, 3}));
  EXPECT_TRUE(attend(back) == attend(cache));
  auto cross = cross_with<float>({4, 5}, 2);
  EXPECT_EQ(refusal(cross),
            "layer 1 of sequence 0 has 70 tokens, expected the 72 that the sequence has in "
            "other layers");
  EXPECT_EQ(cross.size(0), 4);
}

TEST_F(FileBatches, OfACrossCacheThatLacksALayerAreNotWritten) {
  auto cache = cross_with<float>({4, 0}, 2);
  save(cache, path_);
  const Bytes before = test::read_bytes(path_);
  cache.reset(0, 7);
  EXPECT_EQ(message_of<std::invalid_argument>([&] { save(cache, path_); }),
            "packing: layer 0 of sequence 0 is not written yet");
  EXPECT_TRUE(test::read_bytes(path_) == before);
  EXPECT_EQ(folder_.num_files(), 1u);
}

TEST_F(FileBatches, OfOtherSizesAreRefused) {
  save(batch_with<float>({70, 3}, 1), path_);
  auto batch = batch_with<float>({1, 2, 3}, 2);
  auto cross = cross_with<float>({1}, 2);
  EXPECT_EQ(refusal(batch), "num_seqs is 2, expected the cache's 3");
  EXPECT_EQ(refusal(cross), "num_seqs is 2, expected the cache's 1");
  KVCache<float> one({.max_tokens = 700,
                      .num_layers = 2 * layers,
                      .num_kv_heads = heads,
                      .head_dim = dim,
                      .value_dim = value_dim});
  EXPECT_EQ(message_of<format_error>([&] { restore(one, path_); }),
            path_.string() + ": num_seqs is 2, expected the cache's 1");
  BatchCache<float> other({.num_seqs = 2,
                           .max_tokens = 700,
                           .num_layers = layers + 1,
                           .num_kv_heads = heads,
                           .head_dim = dim,
                           .value_dim = value_dim});
  EXPECT_EQ(message_of<format_error>([&] { restore(other, path_); }),
            path_.string() + ": num_layers is 2, expected the cache's 3");
  auto small = batch_of<float>(2, 69);
  EXPECT_EQ(message_of<std::length_error>([&] { restore(small, path_); }),
            "restore: 70 tokens of sequence 0, but it holds at most 69");
  const Index slab = batch_with<float>({1}, 1).allocated_bytes();
  auto limited = batch_of<float>(2, 700, 2 * slab - 1);
  EXPECT_EQ(message_of<std::length_error>([&] { restore(limited, path_); }),
            "restore: the cache would take " + std::to_string(2 * slab) +
                " bytes, more than the memory_limit of " + std::to_string(2 * slab - 1));
  auto room = batch_of<float>(2, 700, 2 * slab);
  restore(room, path_);
  const Index tile = cross_with<float>({1}, 1).allocated_bytes();
  auto limited_cross = cross_of<float>({1, 1}, 3 * tile - 1);
  EXPECT_EQ(message_of<std::length_error>([&] { restore(limited_cross, path_); }),
            "restore: the cache would take " + std::to_string(3 * tile) +
                " bytes, more than the memory_limit of " + std::to_string(3 * tile - 1));
  EXPECT_EQ(limited_cross.size(0), 1);
}

TEST_F(FileBatches, CutOrDamagedAreRefused) {
  save(cross_with<float>({66, 3}, 1), path_);
  const Bytes bytes = test::read_bytes(path_);
  auto batch = batch_with<float>({5, 6}, 2);
  auto cross = cross_with<float>({5, 6}, 2);
  for (const std::size_t cut : {std::size_t{0}, std::size_t{63}, std::size_t{4095}, std::size_t{4096},
                                bytes.size() / 2, bytes.size() - 1}) {
    test::write_bytes(path_, Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(cut)));
    EXPECT_NE(refusal(batch), "nothing thrown") << cut;
    EXPECT_NE(refusal(cross), "nothing thrown") << cut;
  }
  Bytes damaged = bytes;
  damaged.back() ^= 1;
  test::write_bytes(path_, damaged);
  for (const std::string& message : {refusal(batch), refusal(cross)})
    EXPECT_EQ(message.rfind("layer 1 of sequence 1, bytes ", 0), 0u) << message;
  EXPECT_THROW(MappedPrefix<float>{path_}, format_error);
}

TEST_F(FileBatches, ThatRunOutOfMemoryChangeNothing) {
  save(cross_with<float>({66, 3}, 1), path_);
  auto batch = batch_with<float>({5, 6}, 2);
  auto cross = cross_with<float>({5, 6}, 2);
  const auto of_batch = attend(batch), of_cross = attend(cross);
  const Bytes bytes = test::read_bytes(path_);
  const auto unchanged = [&] {
    EXPECT_TRUE(attend(batch) == of_batch && attend(cross) == of_cross);
    EXPECT_EQ(batch.size(1), 6);
  };
  test::fail_each_allocation([&] { restore(batch, path_); }, unchanged);
  EXPECT_EQ(batch.size(0), 66);
  batch = batch_with<float>({5, 6}, 2);
  test::fail_each_allocation([&] { restore(cross, path_); }, unchanged);
  EXPECT_EQ(cross.size(0), 66);
  const auto old_file = [&] { EXPECT_TRUE(test::read_bytes(path_) == bytes); };
  cross = cross_with<float>({5, 6}, 2);
  test::fail_each_allocation([&] { save(batch, path_); }, old_file);
  EXPECT_FALSE(test::read_bytes(path_) == bytes);
}

}  // namespace
}  // namespace gqa
