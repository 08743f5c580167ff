// SPDX-License-Identifier: Apache-2.0
// A saved cache that is read where the system keeps the file, by as many processes as there are. Needs
// xxHash: link gqa::files. Not part of gqa.hpp.
#pragma once

#include <sys/mman.h>

#include <filesystem>
#include <memory>

#include "gqa/kv/file.hpp"

namespace gqa {

namespace detail {

/// A file's bytes, mapped read-only.
class Mapping {
 public:
  Mapping(const File& file, Index bytes) : bytes_(static_cast<std::size_t>(bytes)) {
    address_ = ::mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, file.descriptor(), 0);
    if (address_ == MAP_FAILED) fail_on(file.path(), "cannot map", errno);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { ::munmap(address_, bytes_); }

  const std::byte* at(Index offset) const { return static_cast<const std::byte*>(address_) + offset; }
  std::span<const std::byte> bytes(Range r) const {
    return {at(r.begin), static_cast<std::size_t>(r.size())};
  }

 private:
  void* address_ = nullptr;
  std::size_t bytes_;
};

/// A layer of a mapped file, found once.
struct MappedLayer {
  PackedLayer packed;
  PackedTiles tiles;
  PackedBlockBytes bytes;
  const std::byte* begin;
};

struct MappedFile {
  MappedFile(const File& file, Index bytes, Index sequences) : mapping(file, bytes), num_seqs(sequences) {}

  Mapping mapping;
  Index num_seqs;
  std::vector<MappedLayer> layers;  // [layer][sequence]
};

}  // namespace detail

/// The tokens of a file that save() wrote, for attention to read without copying: a prefix that many
/// sequences share, and many processes, whose memory holds it once; or the encoder's tokens of a batch, from
/// a CrossCache. Each layer is a view like those of a cache; with AnyKV it becomes the shared level of a
/// cascade.
///
/// The file is mapped, so it must not be cut or written to while it is (save() never does: what it replaces
/// stays readable for who has it mapped). Copies share the mapping, which lives as long as they and the views
/// do. Any number of threads may read.
template <gqa::Scalar T>
class MappedPrefix {
 public:
  using Scalar = T;

  class View {
   public:
    using Scalar = T;

    Index num_seqs() const { return file_->num_seqs; }
    Index num_kv_heads() const { return layer_->packed.shape.num_kv_heads; }
    Index head_dim() const { return layer_->packed.shape.head_dim; }
    Index value_dim() const { return layer_->packed.shape.value_dim; }
    Index scratch_bytes() const { return 0; }
    Ranges retained(Index seq) const { return layer_[seq].packed.retained; }

    KVTile tile(Index seq, Index kv_head, Range want, void*) const {
      const detail::MappedLayer& layer = layer_[seq];
      const Index slot = kv_head * layer.tiles.size() + layer.tiles.slot(want.begin / tile_keys);
      const std::byte* block = layer.begin + slot * layer.bytes.both;
      const auto* k = reinterpret_cast<const T*>(block);
      const auto* v = reinterpret_cast<const T*>(block + layer.bytes.keys);
      // Blocks are read through pointers to what may be written; nothing writes to these.
      return detail::BlockLayout<T>(head_dim(), value_dim())
          .tile({const_cast<T*>(k), const_cast<T*>(v)}, detail::tokens_of_block(want));
    }

   private:
    friend class MappedPrefix;
    View(std::shared_ptr<const detail::MappedFile> file, Index layer)
        : file_(std::move(file)), layer_(file_->layers.data() + layer * file_->num_seqs) {}

    std::shared_ptr<const detail::MappedFile> file_;
    const detail::MappedLayer* layer_;  // of sequence 0; those of the others follow
  };

  struct Options {
    bool verify = true;           ///< reads all of the file once, to find damage before it is used
    std::string_view label = {};  ///< that the file must have; empty: any
  };

  /// Throws gqa::format_error saying where for a file of another dtype or label, one with a damaged or lying
  /// header, too short or too long, or, where it is to be verified, damaged anywhere; std::system_error
  /// naming the path.
  explicit MappedPrefix(const std::filesystem::path& path) : MappedPrefix(path, Options{}) {}
  MappedPrefix(const std::filesystem::path& path, Options options) {
    detail::File file(path, O_RDONLY);
    detail::naming(path, [&] {
      const detail::PackedHeader header = detail::read_header(file);
      detail::check_type<T>(header);
      detail::check_label(header, options.label);
      const std::vector<Index> offsets = header.offsets();
      auto mapped = std::make_shared<detail::MappedFile>(file, offsets.back(), header.num_seqs);
      for (std::size_t i = 0; i < header.layers.size(); ++i) {
        const detail::PackedLayer& packed = header.layers[i];
        if (options.verify) {
          const Range bytes = {offsets[i], offsets[i + 1]};
          detail::check_checksum(header, i, detail::checksum_of(mapped->mapping.bytes(bytes)), bytes);
        }
        mapped->layers.push_back({packed, detail::PackedTiles(packed.retained),
                                  detail::PackedBlockBytes(detail::packed_type<T>, packed.shape),
                                  mapped->mapping.at(offsets[i])});
      }
      size_ = detail::tokens_of(detail::retained_of(header.layers));
      file_ = std::move(mapped);
    });
  }

  MappedPrefix(const MappedPrefix&) = default;  // moving copies: none is left without its file
  MappedPrefix& operator=(const MappedPrefix&) = default;

  Index num_layers() const { return std::ssize(file_->layers) / file_->num_seqs; }
  Index num_seqs() const { return file_->num_seqs; }
  /// How many tokens the longest sequence has.
  Index size() const { return size_; }

  /// Throws std::out_of_range.
  View layer(Index i) const {
    detail::check_layer(i, num_layers());
    return View(file_, i);
  }

 private:
  std::shared_ptr<const detail::MappedFile> file_;
  Index size_ = 0;
};

}  // namespace gqa
