// SPDX-License-Identifier: Apache-2.0
// A cache's tokens as bytes: what they are by definition, for any kind of cache, and back.
#include "gqa/kv/packed_tokens.hpp"

#include <gtest/gtest.h>

#include <map>
#include <tuple>

#include "kv/file_case.hpp"
#include "support/message_of.hpp"
#include "support/scalars.hpp"

namespace gqa {
namespace {

using detail::CacheBlocks;
using detail::LayerShape;
using detail::PackedBlock;
using detail::PackedLayer;
using test::Bytes;

/// A cache of which every layer has sizes and ranges of its own: what a hybrid of rings with sinks is.
template <class T>
struct Mixed {
  struct Layer {
    LayerShape shape;
    Ranges retained;
  };
  std::vector<Layer> layers;
  std::map<std::tuple<Index, Index, Index>, std::vector<T>> blocks;  // [layer, head, tile]

  PackedBlock<T> block_at(Index layer, Index head, Index tile) {
    const LayerShape& s = layers[static_cast<std::size_t>(layer)].shape;
    const detail::BlockLayout<T> layout(s.head_dim, s.value_dim);
    std::vector<T>& block = blocks[{layer, head, tile}];
    if (block.empty())  // what is not written may be anything
      block.assign(static_cast<std::size_t>(layout.key_elements() + layout.value_elements()), T(-77));
    return {block.data(), block.data() + layout.key_elements()};
  }
  /// What token t has in dim d (values from 1000 on): a number of its own, as far as T tells them apart.
  static T value(Index layer, Index head, Index t, Index d) {
    return static_cast<T>(static_cast<float>((t * 31 + d * 7 + head * 3 + layer) % 251 + 1));
  }
};

}  // namespace

template <class T>
struct detail::CacheBlocks<Mixed<T>> {
  using Scalar = T;
  using C = Mixed<T>;
  static const typename C::Layer& at(const C& c, Index i) { return c.layers[static_cast<std::size_t>(i)]; }
  static Index num_layers(const C& c) { return std::ssize(c.layers); }
  static LayerShape shape(const C& c, Index layer) { return at(c, layer).shape; }
  static Ranges retained(const C& c, Index layer) { return at(c, layer).retained; }
  static PackedBlock<T> block_at(const C& c, Index layer, Index head, Index tile) {
    return const_cast<C&>(c).block_at(layer, head, tile);
  }
  static C stage(const C& c, std::span<const Ranges> retained) {
    C staged{c.layers, {}};
    for (std::size_t i = 0; i < retained.size(); ++i) staged.layers[i].retained = retained[i];
    return staged;
  }
  static void adopt(C& c, C&& staged, std::span<const Ranges>) noexcept { c = std::move(staged); }
};

namespace {

template <class T>
class PackedTokens : public ::testing::Test {};
using Scalars = test::AllScalars;
TYPED_TEST_SUITE(PackedTokens, Scalars);

template <class C>
Bytes section_of(const C& cache, Index layer, const PackedLayer& packed) {
  Bytes bytes;
  detail::write_section(cache, layer, packed, [&](std::span<const std::span<const std::byte>> pieces) {
    std::size_t size = 0;
    for (const auto piece : pieces) {
      const auto* data = reinterpret_cast<const unsigned char*>(piece.data());
      bytes.insert(bytes.end(), data, data + piece.size());
      size += piece.size();
    }
    EXPECT_LE(pieces.size(), 1000u);
    EXPECT_LE(size, std::size_t{1} << 20);
  });
  return bytes;
}

/// A section by its definition: values by `value(head, token, d, is_value)`.
template <class T, class Value>
Bytes expected_section(const LayerShape& s, const Ranges& retained, Value&& value) {
  constexpr Index E = std::is_same_v<T, bfloat16> ? 2 : 1;
  const auto held = [&](Index t) {
    for (const Range r : retained)
      if (r.contains(t)) return true;
    return false;
  };
  std::vector<T> elements;
  for (Index head = 0; head < s.num_kv_heads; ++head) {
    for (Index tile = 0; tile * 64 < retained.hull().end; ++tile) {
      bool meets = false;
      for (Index j = 0; j < 64; ++j) meets = meets || held(tile * 64 + j);
      if (!meets) continue;
      std::vector<T> k(static_cast<std::size_t>((s.head_dim + E - 1) / E * E * 64), T{}),
          v(static_cast<std::size_t>((s.value_dim + 15) / 16 * 16 * 64), T{});
      for (Index j = 0; j < 64; ++j) {
        if (!held(tile * 64 + j)) continue;
        for (Index d = 0; d < s.head_dim; ++d)
          k[static_cast<std::size_t>((d / E * 64 + j) * E + d % E)] = value(head, tile * 64 + j, d, false);
        for (Index d = 0; d < s.value_dim; ++d)
          v[static_cast<std::size_t>(j / E * E * ((s.value_dim + 15) / 16 * 16) + d * E + j % E)] =
              value(head, tile * 64 + j, d, true);
      }
      elements.insert(elements.end(), k.begin(), k.end());
      elements.insert(elements.end(), v.begin(), v.end());
    }
  }
  Bytes bytes(elements.size() * sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), static_cast<const void*>(elements.data()), bytes.size());
  bytes.resize((bytes.size() + 4095) / 4096 * 4096);
  return bytes;
}

TYPED_TEST(PackedTokens, AreTheBlocksAndZeros) {
  using T = TypeParam;
  for (const Index dim : {1, 6, 7, 33}) {
    for (const Index value_dim : {1, 16, 19}) {
      for (const Index tokens : {0, 1, 2, 63, 64, 65, 127, 600}) {
        // Written a few at a time over what was there before: none of that may show.
        KVCache<T> cache({.max_tokens = 700, .num_kv_heads = 2, .head_dim = dim, .value_dim = value_dim});
        test::add_tokens(cache, 650, 9);
        cache.truncate(tokens / 2);
        cache.truncate(0);
        std::vector<T> k = test::random_values<T>(1, tokens * 2 * dim),
                       v = test::random_values<T>(2, tokens * 2 * value_dim);
        for (Index t = 0; t < tokens;) {
          const Index n = std::min<Index>(tokens - t, t % 3 == 0 ? 1 : 61);
          cache.append(TensorView<const T>(k.data() + t * 2 * dim, n, 2, dim),
                       TensorView<const T>(v.data() + t * 2 * value_dim, n, 2, value_dim));
          t += n;
        }
        const auto layers = detail::packed_layers(cache);
        ASSERT_EQ(layers.size(), 1u);
        const auto value = [&](Index head, Index t, Index d, bool is_value) {
          return is_value ? v[static_cast<std::size_t>((t * 2 + head) * value_dim + d)]
                          : k[static_cast<std::size_t>((t * 2 + head) * dim + d)];
        };
        const Bytes expected = expected_section<T>({2, dim, value_dim}, Range{0, tokens}, value);
        EXPECT_EQ(layers[0].section_bytes(detail::packed_type<T>), std::ssize(expected));
        EXPECT_TRUE(section_of(cache, 0, layers[0]) == expected)
            << "D " << dim << ", Dv " << value_dim << ", " << tokens << " tokens";
      }
    }
  }
}

TYPED_TEST(PackedTokens, OfLayersThatDiffer) {
  using T = TypeParam;
  constexpr Index E = std::is_same_v<T, bfloat16> ? 2 : 1;
  Mixed<T> cache{{{{1, 3, 5}, {Range{0, 4}, Range{130, 300}}},
                  {{3, 8, 16}, {Range{0, 70}, Range{80, 90}, Range{127, 128}}},
                  {{2, 1, 1}, Range{64, 65}},
                  {{2, 5, 2}, Range{}}},
                 {}};
  for (Index layer = 0; layer < 4; ++layer) {
    const auto& l = cache.layers[static_cast<std::size_t>(layer)];
    const Index row = (l.shape.value_dim + 15) / 16 * 16;
    for (const Range r : l.retained) {
      for (Index head = 0; head < l.shape.num_kv_heads; ++head) {
        for (Index t = r.begin; t < r.end; ++t) {
          const PackedBlock<T> block = cache.block_at(layer, head, t / 64);
          const Index j = t % 64;
          // With what stands beside and after the dims of a token.
          for (Index d = 0; d < (l.shape.head_dim + E - 1) / E * E; ++d)
            block.k[(d / E * 64 + j) * E + d % E] =
                d < l.shape.head_dim ? cache.value(layer, head, t, d) : T{};
          for (Index d = 0; d < row; ++d)
            block.v[j / E * E * row + d * E + j % E] =
                d < l.shape.value_dim ? cache.value(layer, head, t, 1000 + d) : T{};
        }
      }
    }
  }
  const auto layers = detail::packed_layers(cache);
  Bytes all;
  std::vector<Bytes> sections;
  for (Index layer = 0; layer < 4; ++layer) {
    const auto& l = cache.layers[static_cast<std::size_t>(layer)];
    const Bytes expected =
        expected_section<T>(l.shape, l.retained, [&](Index head, Index t, Index d, bool is_value) {
          return cache.value(layer, head, t, is_value ? 1000 + d : d);
        });
    sections.push_back(section_of(cache, layer, layers[static_cast<std::size_t>(layer)]));
    EXPECT_TRUE(sections.back() == expected) << "layer " << layer;
    all.insert(all.end(), expected.begin(), expected.end());
  }

  Mixed<T> other{cache.layers, {}};
  for (auto& layer : other.layers) layer.retained = Range{0, 3};
  std::size_t position = 0;
  const auto source = [&](std::span<const std::span<std::byte>> pieces) {
    for (const auto piece : pieces) {
      ASSERT_LE(position + piece.size(), all.size());
      std::memcpy(piece.data(), all.data() + position, piece.size());
      position += piece.size();
    }
  };
  std::vector<Index> finished;
  detail::read_sections(other, layers, source, [&](Index layer) { finished.push_back(layer); });
  EXPECT_EQ(position, all.size());
  EXPECT_EQ(finished, (std::vector<Index>{0, 1, 2, 3}));
  for (Index layer = 0; layer < 4; ++layer) {
    const auto i = static_cast<std::size_t>(layer);
    EXPECT_EQ(other.layers[i].retained, cache.layers[i].retained);
    EXPECT_TRUE(section_of(other, layer, layers[i]) == sections[i]) << "layer " << layer;
  }
}

/// Swapped out to a caller's memory and in again.
TYPED_TEST(PackedTokens, ComeBackFromMemory) {
  using T = TypeParam;
  auto cache = test::with_tokens(test::cache_of<T>({}), 200, 1);
  const auto layers = detail::packed_layers(cache);
  Bytes memory;
  for (Index i = 0; i < 2; ++i) {
    const Bytes section = section_of(cache, i, layers[static_cast<std::size_t>(i)]);
    memory.insert(memory.end(), section.begin(), section.end());
  }
  auto other = test::with_tokens(test::cache_of<T>({}), 77, 2);
  std::size_t position = 0;
  detail::read_sections(
      other, layers,
      [&](std::span<const std::span<std::byte>> pieces) {
        for (const auto piece : pieces) {
          std::memcpy(piece.data(), memory.data() + position, piece.size());
          position += piece.size();
        }
      },
      [](Index) {});
  EXPECT_EQ(other.size(), 200);
  EXPECT_TRUE(test::contents(other) == test::contents(cache));
}

TYPED_TEST(PackedTokens, AFailingSourceLeavesTheCache) {
  using T = TypeParam;
  const auto cache = test::with_tokens(test::cache_of<T>({}), 200, 1);
  const auto layers = detail::packed_layers(cache);
  auto other = test::with_tokens(test::cache_of<T>({}), 77, 2);
  const auto before = test::contents(other);
  const auto nothing = [](std::span<const std::span<std::byte>>) {};
  const auto last = [](Index layer) {
    if (layer == 1) throw format_error("the last");
  };
  EXPECT_EQ(test::message_of<format_error>([&] { detail::read_sections(other, layers, nothing, last); }),
            "the last");
  EXPECT_EQ(other.size(), 77);
  EXPECT_TRUE(test::contents(other) == before);
}

TEST(PackedTiles, AreThoseThatMeetARange) {
  const auto list = [](const Ranges& ranges) {
    std::vector<Index> tiles;
    detail::PackedTiles(ranges).for_each([&](Index tile) { tiles.push_back(tile); });
    return tiles;
  };
  using List = std::vector<Index>;
  EXPECT_EQ(list(Range{0, 0}), List{});
  EXPECT_EQ(list(Range{63, 64}), List{0});
  EXPECT_EQ(list(Range{63, 65}), (List{0, 1}));
  EXPECT_EQ(list({Range{0, 4}, Range{10, 20}, Range{60, 130}, Range{400, 401}}), (List{0, 1, 2, 6}));
  EXPECT_EQ(list({Range{0, 64}, Range{64, 64}, Range{100, 101}}), (List{0, 1}));
  const detail::PackedTiles tiles({Range{0, 4}, Range{130, 300}});
  EXPECT_EQ(tiles.size(), 4);
  EXPECT_EQ(tiles.slot(0), 0);
  EXPECT_EQ(tiles.slot(2), 1);
  EXPECT_EQ(tiles.slot(4), 3);
}

TEST(PackedLayer, SizesThatOverflowAreRefused) {
  const Index most = std::numeric_limits<Index>::max();
  for (const LayerShape& shape : {LayerShape{1, most, 1}, LayerShape{1, 1, most}, LayerShape{most, 8, 8},
                                  LayerShape{most / 64, 1, 1}, LayerShape{1, most / 200, most / 200}}) {
    const PackedLayer layer{.shape = shape, .retained = Range{0, 65}};
    EXPECT_THROW((void)layer.section_bytes(detail::packed_type<double>), std::length_error)
        << shape.num_kv_heads << " x " << shape.head_dim << ", " << shape.value_dim;
  }
}

}  // namespace
}  // namespace gqa
