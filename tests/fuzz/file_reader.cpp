// SPDX-License-Identifier: Apache-2.0
// libFuzzer: any bytes are a file of a cache's tokens or are refused, and what is refused changes nothing.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "gqa/attention.hpp"
#include "gqa/kv/cache.hpp"
#include "gqa/kv/file.hpp"
#include "gqa/kv/mapped_prefix.hpp"
#include "gqa/mask.hpp"

namespace {

using gqa::Index;
using gqa::TensorView;
using Bytes = std::vector<unsigned char>;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

/// A file in memory, which has a path.
class MemoryFile {
 public:
  MemoryFile() : file_(::memfd_create("gqa", MFD_CLOEXEC)), path_("/proc/self/fd/" + std::to_string(file_)) {
    require(file_ >= 0, "a file in memory");
  }
  const std::string& path() const { return path_; }
  void put(const Bytes& bytes) const {
    const auto size = static_cast<::off_t>(bytes.size());
    require(::ftruncate(file_, size) == 0 && ::pwrite(file_, bytes.data(), bytes.size(), 0) == size,
            "bytes are written");
  }

 private:
  int file_;
  std::string path_;
};

/// The cache that files are restored into: 2 layers of 1 x 3 and x 2, with 3 tokens of its own.
template <class T>
class Target {
 public:
  Target() { reset(); }

  void restore(const std::string& path) {
    try {
      gqa::restore(cache_, path);
    } catch (const gqa::format_error&) {
      return require(unchanged(), "a cache that was not restored is as it was");
    } catch (const std::length_error&) {
      return require(unchanged(), "a cache that was not restored is as it was");
    }
    const auto is = gqa::describe_file(path);
    require(is.dtype == gqa::scalar_name<T>() && is.tokens == cache_.size() && is.layers.size() == 2,
            "what was restored is what the file says");
    attend(cache_.layer(0));
    attend(cache_.layer(1));
    reset();
  }

  void map(const std::string& path, bool verify) const {
    try {
      const gqa::MappedPrefix<T> mapped(path, {.verify = verify});
      for (Index i = 0; i < mapped.num_layers(); ++i) touch(mapped.layer(i));
    } catch (const gqa::format_error&) {
    }
  }

 private:
  static constexpr Index capacity = 200;

  void reset() {
    cache_.clear();
    const std::vector<T> ones(9, T(1));
    const gqa::Span span = cache_.extend(3);
    for (Index i = 0; i < 2; ++i)
      cache_.write(i, span, TensorView<const T>(ones.data(), 3, 1, 3),
                   TensorView<const T>(ones.data(), 3, 1, 2));
  }

  bool unchanged() const {
    std::vector<T> k(9), v(6);
    if (cache_.size() != 3) return false;
    for (Index i = 0; i < 2; ++i) {
      cache_.read(i, {0, 3}, TensorView<T>(k.data(), 3, 1, 3), TensorView<T>(v.data(), 3, 1, 2));
      for (const T x : k)
        if (x != T(1)) return false;
      for (const T x : v)
        if (x != T(1)) return false;
    }
    return true;
  }

  template <class View>
  static void attend(const View& view) {
    const std::vector<T> q(3, T(1));
    std::vector<T> out(2);
    gqa::attention(TensorView<const T>(q.data(), 1, 1, 3), view, TensorView<T>(out.data(), 1, 1, 2),
                   gqa::causal());
  }

  /// Reads all that a view gives out, of whatever shape.
  template <class View>
  static void touch(const View& view) {
    volatile unsigned sum = 0;
    const auto add = [&](const void* data, Index bytes) {
      for (Index i = 0; i < bytes; ++i) sum = sum + static_cast<const unsigned char*>(data)[i];
    };
    for (Index i = 0; i < view.num_seqs() * view.num_kv_heads(); ++i) {
      const Index seq = i / view.num_kv_heads(), head = i % view.num_kv_heads();
      for (const gqa::Range r : view.retained(seq)) {
        for (Index at = r.begin; at < r.end;) {
          const Index end = std::min(r.end, at / gqa::tile_keys * gqa::tile_keys + gqa::tile_keys);
          const gqa::KVTile tile = view.tile(seq, head, {at, end}, nullptr);
          require(tile.size > 0 && tile.size <= end - at, "a tile is of what was wanted");
          const Index E = gqa::element_group<T>, size = sizeof(T);
          for (Index d = 0; d < gqa::ceil_div(view.head_dim(), E); ++d)
            add(tile.k.template as<T>() + d * tile.k.stride, tile.size * E * size);
          for (Index j = 0; j < gqa::ceil_div(tile.size, E); ++j)
            add(tile.v.template as<T>() + j * tile.v.stride, view.value_dim() * E * size);
          at += tile.size;
        }
      }
    }
  }

  gqa::KVCache<T> cache_{
      {.max_tokens = capacity, .num_layers = 2, .num_kv_heads = 1, .head_dim = 3, .value_dim = 2}};
};

/// Makes the checksums hold, as far as the bytes are a header, so that what they guard is read.
void sign(Bytes& bytes) {
  using namespace gqa::detail;
  if (bytes.size() < sizeof(FilePrefix)) return;
  FilePrefix prefix;
  std::memcpy(&prefix, bytes.data(), sizeof prefix);
  const auto all = std::as_bytes(std::span(bytes));
  if (prefix.header_bytes < sizeof prefix + 8 || prefix.header_bytes > bytes.size()) return;
  for (std::size_t i = 0; i < std::size_t{prefix.num_layers} * prefix.num_seqs; ++i) {
    const std::size_t at = sizeof prefix + i * sizeof(LayerRecord);
    if (at + sizeof(LayerRecord) + 8 > prefix.header_bytes) break;
    LayerRecord record;
    std::memcpy(&record, bytes.data() + at, sizeof record);
    if (record.offset > bytes.size() || record.bytes > bytes.size() - record.offset) continue;
    record.checksum = checksum_of(all.subspan(record.offset, record.bytes));
    std::memcpy(bytes.data() + at, &record, sizeof record);
  }
  const std::uint64_t sum = checksum_of(all.first(prefix.header_bytes - 8));
  std::memcpy(bytes.data() + prefix.header_bytes - 8, &sum, 8);
}

template <class... T>
void read(const std::string& path, Target<T>&... targets) {
  try {
    (void)gqa::describe_file(path);
  } catch (const gqa::format_error&) {
  }
  (targets.restore(path), ...);
  (targets.map(path, true), ...);
  (targets.map(path, false), ...);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const MemoryFile file;
  static Target<float> f32;
  static Target<double> f64;
  static Target<gqa::half> f16;
  static Target<gqa::bfloat16> bf16;
  Bytes bytes(data, data + size);
  file.put(bytes);
  read(file.path(), f32, f64, f16, bf16);
  sign(bytes);
  file.put(bytes);
  read(file.path(), f32, f64, f16, bf16);
  return 0;
}
