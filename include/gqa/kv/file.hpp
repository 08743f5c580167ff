// SPDX-License-Identifier: Apache-2.0
// Caches in files. Needs xxHash: link gqa::files. Not part of gqa.hpp.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "gqa/kv/file_checksum.hpp"
#include "gqa/kv/file_io.hpp"
#include "gqa/kv/packed_header.hpp"

namespace gqa {

/// What a caller says of a file.
struct FileOptions {
  /// What the keys and values depend on beside the tokens, such as a digest of the model: at most 1,024
  /// bytes without control characters. save() writes it; restore() and MappedPrefix refuse a file that has
  /// another one, or none, and take any where it is empty.
  std::string_view label = {};
};

/// What a file of a cache's tokens says of itself.
struct FileDescription {
  struct Layer {
    Index num_kv_heads = 0, head_dim = 0, value_dim = 0;
    std::vector<Ranges> retained = {};  ///< of each sequence, the positions whose keys and values it has
  };

  std::string dtype;  ///< "f32", "f64", "f16" or "bf16"
  std::string label;  ///< as save() was given it
  std::vector<Layer> layers;
  Index num_seqs = 1;
  Index tokens = 0;  ///< of the longest sequence: where its longest layer ends
  Index bytes = 0;   ///< of the file
};

namespace detail {

/// Calls f; a format_error that it throws says in which file.
template <class F>
decltype(auto) naming(const std::filesystem::path& path, F&& f) {
  try {
    return f();
  } catch (const format_error& error) {
    throw format_error(path.string() + ": " + error.what());
  }
}

/// Reads and checks a header from a file's beginning; the file then stands at its first section.
inline PackedHeader read_header(File& file) {
  const Index file_bytes = file.size();
  std::vector<std::byte> bytes(static_cast<std::size_t>(std::min(file_bytes, Index{sizeof(FilePrefix)})));
  const auto read = [&](std::span<std::byte> part) {
    const Index missing = file.read(part);
    GQA_CHECK(missing == 0, format_error,
              "header: the file was cut while it was read, " << missing << " bytes are missing");
  };
  read(bytes);
  const std::size_t prefix = bytes.size();
  bytes.resize(static_cast<std::size_t>(check_prefix(bytes, file_bytes)));
  read(std::span(bytes).subspan(prefix));
  return decode(bytes, file_bytes, checksum_of);
}

/// `sum` is of the section at `bytes`.
inline void check_checksum(const PackedHeader& header, std::size_t section, std::uint64_t sum, Range bytes) {
  GQA_CHECK(sum == header.layers[section].checksum, format_error,
            section_name(static_cast<Index>(section), header.num_seqs)
                << ", bytes " << bytes.begin << " to " << bytes.end << ": its checksum differs");
}

template <Scalar T>
void check_type(const PackedHeader& header) {
  GQA_CHECK(header.type->name == scalar_name<T>(), format_error,
            "header, byte 24: the dtype is " << header.type->name << ", expected " << scalar_name<T>());
}

inline void check_label(const PackedHeader& header, std::string_view expected) {
  GQA_CHECK(expected.empty() || header.label == expected, format_error,
            "header: the label is \"" << header.label << "\", expected \"" << expected << "\"");
}

}  // namespace detail

/// Writes what a cache holds, as far as each layer is written, to a file: under another name in the same
/// directory, flushed, then renamed. Where that fails, or the process is killed, a file that had the name is
/// as it was; a killed one leaves the other name behind, path.PID-N.tmp. The same tokens are the same bytes,
/// whatever the cache went through. Throws std::system_error naming the path, std::invalid_argument for a
/// cache that was moved from and a label that cannot be, std::length_error for more than 2^16 layers of all
/// sequences or 2^20 heads or dims, std::bad_alloc.
///
/// A cache may be saved by several threads while others read it; not while it is written.
template <detail::PackableCache C>
void save(const C& cache, const std::filesystem::path& path, const FileOptions& options = {}) {
  using T = typename detail::CacheBlocks<C>::Scalar;
  detail::PackedHeader header{&detail::packed_type<T>, detail::packed_layers(cache),
                              detail::num_seqs_of(cache), std::string(options.label)};
  detail::encode(header, detail::checksum_of);  // throws where sizes overflow: before anything is written
  detail::Replacement replacement(path);
  detail::File& file = replacement.file();
  file.seek(header.bytes());
  for (std::size_t i = 0; i < header.layers.size(); ++i) {
    detail::RunningChecksum sum;
    detail::write_section(cache, static_cast<Index>(i), header.layers[i],
                          [&](std::span<const std::span<const std::byte>> pieces) {
                            for (const auto piece : pieces) sum.add(piece);
                            file.write(pieces);
                          });
    header.layers[i].checksum = sum.value();
  }
  file.seek(0);
  file.write(detail::encode(header, detail::checksum_of));
  replacement.commit();
}

/// Makes a cache hold what a file does, in place of what it held; its spans and views are no longer valid, as
/// after clear(). The cache goes on with the same bits as the one that was saved. All or nothing: memory for
/// the new tokens is taken before the old ones are given back.
///
/// Throws gqa::format_error saying where for a file of another shape, dtype, number of sequences or label,
/// one that is damaged anywhere, too short or too long, or of another version; std::length_error for more
/// tokens than the cache may hold; std::system_error naming the path; std::bad_alloc. The cache is as it was
/// then.
template <detail::PackableCache C>
void restore(C& cache, const std::filesystem::path& path, const FileOptions& options = {}) {
  detail::File file(path, O_RDONLY);
  detail::naming(path, [&] {
    const detail::PackedHeader header = detail::read_header(file);
    detail::check_type<typename detail::CacheBlocks<C>::Scalar>(header);
    detail::check_label(header, options.label);
    const Index num_seqs = detail::num_seqs_of(std::as_const(cache));
    GQA_CHECK(header.num_seqs == num_seqs, format_error,
              "num_seqs is " << header.num_seqs << ", expected the cache's " << num_seqs);
    const std::vector<Index> offsets = header.offsets();
    detail::RunningChecksum sum;
    std::size_t section = 0;
    Index position = offsets[0];
    const auto source = [&](std::span<const std::span<std::byte>> pieces) {
      const Index missing = file.read(pieces);
      for (const auto piece : pieces) {
        sum.add(piece);
        position += std::ssize(piece);
      }
      GQA_CHECK(missing == 0, format_error,
                detail::section_name(static_cast<Index>(section), num_seqs)
                    << ", byte " << position - missing << ": the file was cut while it was read");
    };
    detail::read_sections(cache, header.layers, source, [&](Index) {
      detail::check_checksum(header, section, sum.value(), {offsets[section], offsets[section + 1]});
      sum = {};
      ++section;
    });
  });
}

/// Looks at a file's header, not at its tokens. Throws gqa::format_error, std::system_error.
inline FileDescription describe_file(const std::filesystem::path& path) {
  detail::File file(path, O_RDONLY);
  return detail::naming(path, [&] {
    const detail::PackedHeader header = detail::read_header(file);
    FileDescription description{.dtype = std::string(header.type->name),
                                .label = header.label,
                                .layers = {},
                                .num_seqs = header.num_seqs};
    for (std::size_t i = 0; i < header.layers.size(); ++i) {
      const auto& [shape, retained, checksum] = header.layers[i];
      if (i % static_cast<std::size_t>(header.num_seqs) == 0)
        description.layers.push_back({shape.num_kv_heads, shape.head_dim, shape.value_dim});
      description.layers.back().retained.push_back(retained);
    }
    description.tokens = detail::tokens_of(detail::retained_of(header.layers));
    description.bytes = header.offsets().back();
    return description;
  });
}

}  // namespace gqa
