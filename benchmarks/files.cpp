// SPDX-License-Identifier: Apache-2.0
// Saving a cache to a file and restoring it, beside write() and read() of as many bytes.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <gqa/core/memory.hpp>
#include <gqa/kv/cache.hpp>
#include <gqa/kv/file.hpp>
#include <gqa/kv/mapped_prefix.hpp>
#include <gqa/kv/paged.hpp>
#include <system_error>

#include "rows.hpp"
#include "timing.hpp"

namespace bench {
namespace {

using Path = std::filesystem::path;
using Bytes = gqa::AlignedArray<char>;
constexpr std::size_t piece = std::size_t{4} << 20;

double seconds_of(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void check(bool held, const Path& path) {
  if (!held) throw std::system_error(errno, std::generic_category(), path.string());
}

/// The least that puts bytes into a file for good.
void write_plainly(const Path& path, const char* data, std::size_t size) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  check(file >= 0, path);
  for (std::size_t at = 0; at < size;) {
    const auto n = ::write(file, data + at, std::min(piece, size - at));
    check(n > 0, path);
    at += static_cast<std::size_t>(n);
  }
  check(::fsync(file) == 0 && ::close(file) == 0, path);
}

/// The least that reads a file: into memory of that size, or all into the first 4 MiB of it.
void read_plainly(const Path& path, char* data, bool all_apart) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  check(file >= 0, path);
  for (std::size_t at = 0;;) {
    const auto n = ::read(file, data + (all_apart ? at : 0), piece);
    check(n >= 0, path);
    if (n == 0) break;
    at += static_cast<std::size_t>(n);
  }
  ::close(file);
}

enum class Operation { save, restore, map };

constexpr Index L = 32, G = 8, D = 128;  // an 8B model's

/// A cache of some tokens, or one for them.
struct InSlabs {
  using Cache = gqa::KVCache<gqa::bfloat16>;
  Cache cache;
  explicit InSlabs(Index) : cache({.max_tokens = 65536, .num_layers = L, .num_kv_heads = G, .head_dim = D}) {}
};
struct InPages {
  using Pool = gqa::PagedCache<gqa::bfloat16>;
  using Cache = gqa::PagedSequence<gqa::bfloat16>;
  Pool pool;
  Cache cache;
  explicit InPages(Index tokens)  // what is restored takes its pages before others are given back
      : pool({.num_pages = 2 * gqa::ceil_div(tokens, 64), .num_layers = L, .num_kv_heads = G, .head_dim = D}),
        cache(pool.sequence(pool.create())) {}
};

/// A cache saved in a folder.
template <class Place>
class Files final : public Subject {
 public:
  Files(Operation operation, const Path& folder, Index tokens)
      : operation_(operation),
        path_(folder / ("gqa_bench." + std::to_string(::getpid()))),
        place_(tokens),
        other_place_(tokens) {
    const auto k = random_tensor<gqa::bfloat16>(1, tokens, G, D, 2);
    const gqa::Span span = cache_.extend(tokens);
    for (Index layer = 0; layer < cache_.num_layers(); ++layer) cache_.write(layer, span, k, k);
    gqa::save(cache_, path_);
    size_ = std::filesystem::file_size(path_);
    plain_ = gqa::allocate_aligned<char>(size_);
    read_plainly(path_, plain_.get(), true);
  }
  ~Files() override {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }

  void run(Eigen::ThreadPool*) override {
    if (operation_ == Operation::save) gqa::save(cache_, path_);
    if (operation_ == Operation::restore) {
      other_.clear();  // memory is taken anew each time
      gqa::restore(other_, path_);
    }
    if (operation_ == Operation::map) gqa::MappedPrefix<gqa::bfloat16>(path_, {.verify = false});
  }

  std::string check(Eigen::ThreadPool*) override {
    run(nullptr);
    gqa::restore(other_, path_);
    const Index n = cache_.size();
    Tensor<gqa::bfloat16> k(1, n, G, D), v(1, n, G, D), same_k(1, n, G, D), same_v(1, n, G, D);
    for (Index layer = 0; layer < cache_.num_layers(); layer += 7) {
      cache_.read(layer, {0, n}, k, v);
      other_.read(layer, {0, n}, same_k, same_v);
      const auto bytes = static_cast<std::size_t>(k.size()) * 2;
      if (std::memcmp(k.data(), same_k.data(), bytes) != 0 ||
          std::memcmp(v.data(), same_v.data(), bytes) != 0)
        return "layer " + std::to_string(layer) + " is not what was saved";
    }
    return {};
  }

  /// Both by turns, the median of each.
  std::map<std::string, double> measure(double) override {
    if (operation_ == Operation::map) return {};
    const Path other = path_.string() + ".plain";
    std::vector<double> ours, plain, apart;
    for (int i = 0; i < 7; ++i) {
      // A new file, as the plain one is: to replace one takes the time of giving its pages back, too.
      if (operation_ == Operation::save) std::filesystem::remove(path_);
      ours.push_back(seconds_of([&] { run(nullptr); }));
      if (operation_ == Operation::save) {
        plain.push_back(seconds_of([&] { write_plainly(other, plain_.get(), size_); }));
        std::filesystem::remove(other);
      } else {
        other_.clear();
        plain.push_back(seconds_of([&] { read_plainly(path_, plain_.get(), false); }));
        apart.push_back(seconds_of([&] {
          const Bytes fresh = gqa::allocate_aligned<char>(size_);
          read_plainly(path_, fresh.get(), true);
        }));
      }
    }
    const double time = median(ours), bytes = static_cast<double>(size_);
    if (operation_ == Operation::save)
      return {{"GB/s", bytes / time * 1e-9}, {"of_write_and_fsync", median(plain) / time}};
    return {{"GB/s", bytes / time * 1e-9},
            {"of_read_into_new_memory", median(apart) / time},
            {"of_read_into_4_MiB", median(plain) / time}};
  }

 private:
  Operation operation_;
  Path path_;
  Place place_, other_place_;
  typename Place::Cache& cache_ = place_.cache;
  typename Place::Cache& other_ = other_place_.cache;
  std::size_t size_ = 0;
  Bytes plain_;
};

template <class Place>
Row file_row(const char* name, Operation operation, const char* where, const Path& folder, Index tokens) {
  const std::string full = std::string(name) + "/bf16/L:32/G:8/D:128/tokens:" + std::to_string(tokens) + "/" +
                           where + "/threads:1";
  Row row{.name = full, .memory_key = full, .dtype = Dtype::bf16};
  row.bytes = operation == Operation::map ? 0 : 2.0 * L * G * D * 2 * static_cast<double>(tokens);
  row.footprint = row.bytes;
  row.memory = 4 * row.bytes;
  row.make = [=] { return std::make_unique<Files<Place>>(operation, folder, tokens); };
  return row;
}

}  // namespace

std::vector<Row> file_rows() {
  const char* given = std::getenv("GQA_BENCH_FOLDER");
  const std::pair<const char*, Path> places[] = {
      {"disk", given == nullptr ? std::filesystem::temp_directory_path() : Path(given)},
      {"memory", "/dev/shm"}};
  std::vector<Row> rows;
  for (const auto& [where, folder] : places) {
    std::error_code error;
    const std::filesystem::space_info space = std::filesystem::space(folder, error);
    if (error || space.available < std::uintmax_t{1} << 30) continue;  // containers have little of /dev/shm
    rows.push_back(file_row<InSlabs>("file_save", Operation::save, where, folder, 2048));
    rows.push_back(file_row<InPages>("file_save/paged", Operation::save, where, folder, 2048));
    rows.push_back(file_row<InSlabs>("file_restore", Operation::restore, where, folder, 2048));
    rows.push_back(file_row<InPages>("file_restore/paged", Operation::restore, where, folder, 2048));
    rows.push_back(file_row<InSlabs>("file_map", Operation::map, where, folder, 2048));
  }
  return rows;
}

}  // namespace bench
