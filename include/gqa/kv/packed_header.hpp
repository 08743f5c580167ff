// SPDX-License-Identifier: Apache-2.0
// What stands before the sections of packed tokens in a file, byte by byte.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "gqa/kv/packed_tokens.hpp"

namespace gqa::detail {

/// What a file of packed tokens says of itself. On disk, in the byte order of the machine that wrote it:
///
///     prefix            FilePrefix
///     records           LayerRecord: of layer 0 one for each sequence, then of layer 1
///     label             label_bytes of text
///     zeros
///     checksum          8 bytes: of all before it; they end at prefix.header_bytes, a multiple of 4096
///     sections          one a record, in order, without gaps (PackedLayer), to the end of the file
struct PackedHeader {
  const PackedType* type = nullptr;
  std::vector<PackedLayer> layers = {};  ///< [layer][sequence]
  Index num_seqs = 1;
  std::string label = {};

  Index num_layers() const { return std::ssize(layers) / num_seqs; }
  Index bytes() const;
  /// Where the sections begin, and where the last ends. Throws std::length_error.
  std::vector<Index> offsets() const {
    std::vector<Index> offsets{bytes()};
    for (const PackedLayer& layer : layers)
      offsets.push_back(checked_add(offsets.back(), layer.section_bytes(*type), "file"));
    return offsets;
  }
};

struct FilePrefix {
  static constexpr std::array<unsigned char, 8> expected_magic = {0x89, 'G',  'Q',  'A',
                                                                  '\r', '\n', 0x1a, '\n'};
  static constexpr std::uint32_t expected_byte_order = 0x01020304;
  static constexpr std::uint32_t expected_version = 1;

  std::array<unsigned char, 8> magic;  // as PNG's: what mistakes a file for text breaks it
  std::uint32_t byte_order, version;
  std::uint32_t label_bytes;
  std::uint32_t tile_tokens;
  std::array<char, 8> dtype;  // filled up with zeros
  std::uint32_t group, value_multiple;
  std::uint64_t header_bytes, file_bytes;
  std::uint32_t num_layers, num_seqs;
};
static_assert(sizeof(FilePrefix) == 64 && std::is_trivially_copyable_v<FilePrefix>);

struct LayerRecord {
  std::int64_t num_kv_heads, head_dim, value_dim, num_ranges;
  std::int64_t ranges[Ranges::most][2];  // those after num_ranges are 0
  std::uint64_t offset, bytes, checksum;
};
static_assert(sizeof(LayerRecord) == 120 && std::is_trivially_copyable_v<LayerRecord>);

/// Layers times sequences: more than any model has, and few enough that a header is small.
inline constexpr std::uint64_t most_layers = 65536;
/// The same of heads and dims: of a layer without tokens, no byte would contradict them.
inline constexpr Index most_of_a_size = Index{1} << 20;

/// Of a label, in bytes: a digest and a name, not a document.
inline constexpr std::size_t most_of_a_label = 1024;

/// Whether this can be a label: a line that can be shown.
constexpr bool is_label(std::string_view label) {
  return label.size() <= most_of_a_label && std::ranges::none_of(label, [](char c) {
           return static_cast<unsigned char>(c) < ' ' || c == '\x7f';
         });
}

constexpr Index header_bytes(Index records, Index label_bytes) {
  return round_up(Index{sizeof(FilePrefix)} + records * Index{sizeof(LayerRecord)} + label_bytes + 8,
                  section_alignment);
}
inline Index PackedHeader::bytes() const { return header_bytes(std::ssize(layers), std::ssize(label)); }

/// The header's bytes. `checksum(std::span<const std::byte>)` sums them up.
template <class Checksum>
std::vector<std::byte> encode(const PackedHeader& header, Checksum&& checksum) {
  GQA_CHECK(header.layers.size() <= most_layers, std::length_error,
            "num_layers is " << header.num_layers() << " of " << header.num_seqs
                             << " sequences, expected at most " << most_layers << " in all");
  GQA_CHECK(is_label(header.label), std::invalid_argument,
            "label: " << header.label.size() << " bytes, expected at most " << most_of_a_label
                      << " and no control characters");
  const std::vector<Index> offsets = header.offsets();
  std::vector<std::byte> bytes(static_cast<std::size_t>(header.bytes()));
  FilePrefix prefix{.magic = FilePrefix::expected_magic,
                    .byte_order = FilePrefix::expected_byte_order,
                    .version = FilePrefix::expected_version,
                    .label_bytes = static_cast<std::uint32_t>(header.label.size()),
                    .tile_tokens = tile_keys,
                    .dtype = {},
                    .group = static_cast<std::uint32_t>(header.type->group),
                    .value_multiple = simd::padding,
                    .header_bytes = bytes.size(),
                    .file_bytes = static_cast<std::uint64_t>(offsets.back()),
                    .num_layers = static_cast<std::uint32_t>(header.num_layers()),
                    .num_seqs = static_cast<std::uint32_t>(header.num_seqs)};
  std::ranges::copy(header.type->name, prefix.dtype.begin());
  std::memcpy(bytes.data(), &prefix, sizeof prefix);
  for (std::size_t i = 0; i < header.layers.size(); ++i) {
    const PackedLayer& layer = header.layers[i];
    const auto [num_kv_heads, head_dim, value_dim] = layer.shape;
    GQA_CHECK(std::max({num_kv_heads, head_dim, value_dim}) <= most_of_a_size, std::length_error,
              "layer " << i << " is " << num_kv_heads << " x " << head_dim << " and x " << value_dim
                       << ", expected at most " << most_of_a_size << " each");
    LayerRecord record{};
    record.num_kv_heads = layer.shape.num_kv_heads;
    record.head_dim = layer.shape.head_dim;
    record.value_dim = layer.shape.value_dim;
    record.num_ranges = layer.retained.size();
    for (Index r = 0; r < layer.retained.size(); ++r) {
      record.ranges[r][0] = layer.retained[r].begin;
      record.ranges[r][1] = layer.retained[r].end;
    }
    record.offset = static_cast<std::uint64_t>(offsets[i]);
    record.bytes = static_cast<std::uint64_t>(offsets[i + 1] - offsets[i]);
    record.checksum = layer.checksum;
    std::memcpy(bytes.data() + sizeof prefix + i * sizeof record, &record, sizeof record);
  }
  std::ranges::copy(std::as_bytes(std::span(header.label)),
                    bytes.begin() + std::ssize(header.layers) * Index{sizeof(LayerRecord)} + sizeof prefix);
  const std::uint64_t sum = checksum(std::span<const std::byte>(bytes).first(bytes.size() - 8));
  std::memcpy(bytes.data() + bytes.size() - 8, &sum, 8);
  return bytes;
}

/// How long a header of these first bytes is, at most `file_bytes`. Throws format_error for one that is not
/// ours.
inline Index check_prefix(std::span<const std::byte> first, Index file_bytes) {
  GQA_CHECK(first.size() >= sizeof(FilePrefix), format_error,
            "header, byte " << first.size() << ": the file ends, expected at least " << sizeof(FilePrefix)
                            << " bytes");
  FilePrefix prefix;
  std::memcpy(&prefix, first.data(), sizeof prefix);
  GQA_CHECK(prefix.magic == FilePrefix::expected_magic, format_error,
            "header, byte 0: these are not the tokens of a cache");
  GQA_CHECK(prefix.byte_order == FilePrefix::expected_byte_order, format_error,
            "header, byte 8: written on a machine of another byte order, or damaged");
  GQA_CHECK(
      prefix.version == FilePrefix::expected_version, format_error,
      "header, byte 12: version is " << prefix.version << ", expected " << FilePrefix::expected_version);
  GQA_CHECK(prefix.label_bytes <= most_of_a_label, format_error,
            "header, byte 16: the label has " << prefix.label_bytes << " bytes, expected at most "
                                              << most_of_a_label);
  GQA_CHECK(prefix.tile_tokens == tile_keys, format_error,
            "header, byte 20: a tile has " << prefix.tile_tokens << " tokens, expected " << tile_keys);
  const std::uint64_t records = std::uint64_t{prefix.num_layers} * prefix.num_seqs;
  GQA_CHECK(prefix.num_seqs > 0 && records <= most_layers, format_error,
            "header, byte 56: num_layers is " << prefix.num_layers << " of " << prefix.num_seqs
                                              << " sequences, expected at least 1 and at most " << most_layers
                                              << " layers in all");
  const Index expected = header_bytes(static_cast<Index>(records), prefix.label_bytes);
  GQA_CHECK(prefix.header_bytes == static_cast<std::uint64_t>(expected), format_error,
            "header, byte 40: the header has " << prefix.header_bytes << " bytes, expected " << expected
                                               << " for its " << records << " layers and its label");
  GQA_CHECK(prefix.file_bytes == static_cast<std::uint64_t>(file_bytes), format_error,
            "header, byte 48: the file had " << prefix.file_bytes << " bytes when it was written, and has "
                                             << file_bytes);
  GQA_CHECK(
      expected <= file_bytes, format_error,
      "header, byte " << file_bytes << ": the file ends, expected a header of " << expected << " bytes");
  return expected;
}

/// What the record of a layer of this name says; `where` is its offset. Throws format_error.
inline PackedLayer decode(const LayerRecord& record, const std::string& name, Index where) {
  const auto check = [&](bool holds, const char* what) {
    GQA_CHECK(holds, format_error, "header, byte " << where << ": " << name << ": " << what);
  };
  check(record.num_kv_heads > 0 && record.head_dim > 0 && record.value_dim >= 0, "a size is not positive");
  check(std::max({record.num_kv_heads, record.head_dim, record.value_dim}) <= most_of_a_size,
        "a size is larger than 2^20");
  check(record.num_ranges >= 1 && record.num_ranges <= Ranges::most, "the number of ranges is not 1 to 4");
  PackedLayer packed;
  packed.shape = {record.num_kv_heads, record.head_dim, record.value_dim};
  Index from = 0;
  for (Index r = 0; r < Ranges::most; ++r) {
    const Range range = {record.ranges[r][0], record.ranges[r][1]};
    if (r >= record.num_ranges) {
      check(range == Range{}, "there are more ranges than it says");
      continue;
    }
    check(from <= range.begin && range.begin <= range.end && range.end <= max_position,
          "its ranges are not ascending");
    from = range.end;
    if (r == 0)
      packed.retained = range;
    else
      packed.retained.push_back(range);
  }
  packed.checksum = record.checksum;
  return packed;
}

/// What a header says, every size of which has been held against the others. `bytes` are as many as
/// check_prefix() says. Throws format_error.
template <class Checksum>
PackedHeader decode(std::span<const std::byte> bytes, Index file_bytes, Checksum&& checksum) {
  FilePrefix prefix;
  std::memcpy(&prefix, bytes.data(), sizeof prefix);
  std::uint64_t sum;
  std::memcpy(&sum, bytes.data() + bytes.size() - 8, 8);
  GQA_CHECK(checksum(bytes.first(bytes.size() - 8)) == sum, format_error,
            "header, bytes 0 to " << bytes.size() << ": its checksum differs");
  const std::string_view name(prefix.dtype.data(), prefix.dtype.size());
  PackedHeader header{.type = find_packed_type(name.substr(0, name.find('\0')))};
  GQA_CHECK(header.type != nullptr && name.find_first_not_of('\0', header.type->name.size()) == name.npos,
            format_error, "header, byte 24: the dtype is none that is known");
  GQA_CHECK(prefix.group == header.type->group && prefix.value_multiple == simd::padding, format_error,
            "header, byte 32: elements in groups of " << prefix.group << " and rows of values a multiple of "
                                                      << prefix.value_multiple << ", expected "
                                                      << header.type->group << " and " << simd::padding);
  header.num_seqs = prefix.num_seqs;
  const std::size_t num_records = std::size_t{prefix.num_layers} * prefix.num_seqs;
  Index end = std::ssize(bytes);
  try {
    for (std::size_t i = 0; i < num_records; ++i) {
      const std::string layer = section_name(static_cast<Index>(i), header.num_seqs);
      const std::size_t where = sizeof prefix + i * sizeof(LayerRecord);
      LayerRecord record;
      std::memcpy(&record, bytes.data() + where, sizeof record);
      header.layers.push_back(decode(record, layer, static_cast<Index>(where)));
      const LayerShape& first = header.layers[i - i % prefix.num_seqs].shape;
      GQA_CHECK(header.layers.back().shape == first, format_error,
                "header, byte " << where << ": " << layer
                                << " has other sizes than those of the layer's first sequence");
      const Index section = header.layers.back().section_bytes(*header.type);
      GQA_CHECK(record.offset == static_cast<std::uint64_t>(end) &&
                    record.bytes == static_cast<std::uint64_t>(section),
                format_error,
                "header, byte " << where << ": " << layer << " is at " << record.offset << " and has "
                                << record.bytes << " bytes, expected " << end << " and " << section);
      end = checked_add(end, section, "file");
    }
  } catch (const std::length_error& error) {
    throw format_error(std::string("header: ") + error.what());
  }
  GQA_CHECK(end == file_bytes, format_error,
            "header: the sections end at byte " << end << ", but the file at " << file_bytes);
  const std::size_t records = sizeof prefix + num_records * sizeof(LayerRecord);
  header.label.assign(reinterpret_cast<const char*>(bytes.data()) + records, prefix.label_bytes);
  GQA_CHECK(is_label(header.label), format_error,
            "header, byte " << records << ": the label has control characters");
  for (std::size_t i = records + prefix.label_bytes; i + 8 < bytes.size(); ++i)
    GQA_CHECK(bytes[i] == std::byte{}, format_error, "header, byte " << i << ": not zero");
  return header;
}

}  // namespace gqa::detail
