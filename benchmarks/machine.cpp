// SPDX-License-Identifier: Apache-2.0
#include "machine.hpp"

#include <benchmark/benchmark.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <iomanip>
#include <sstream>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "peak.hpp"

namespace bench {

constexpr std::size_t MiB = std::size_t{1} << 20;

/// Memory in huge pages where the system has them: the limit is that of memory, not of address translation.
class Buffer {
 public:
  explicit Buffer(std::size_t size) : size_(size + margin) {
    memory_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    madvise(memory_, size_, MADV_HUGEPAGE);
#endif
    std::memset(memory_, 0, size_);
  }
  ~Buffer() { munmap(memory_, size_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  std::span<const std::byte> part(std::size_t begin, std::size_t size) const {
    return {static_cast<const std::byte*>(memory_) + begin, size};
  }

 private:
  static constexpr std::size_t margin = MiB;  // prefetches run past the end
  std::size_t size_;
  void* memory_;
};

namespace {

double thread_cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// Runs work(thread) on each thread at once; the time from the common start to the last end, in seconds. One
/// thread is timed by its own clock, which stands still while other programs have the processor.
template <class Work>
double timed(int threads, Work work) {
  if (threads == 1) {
    const double start = thread_cpu_seconds();
    work(0);
    return thread_cpu_seconds() - start;
  }
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> others;
  const auto one = [&](int thread) {
    ++ready;
    while (!go.load(std::memory_order_acquire)) {
    }
    work(thread);
  };
  for (int i = 1; i < threads; ++i) others.emplace_back(one, i);
  while (ready < threads - 1) {
  }
  const auto start = std::chrono::steady_clock::now();
  go.store(true, std::memory_order_release);
  one(0);
  for (auto& thread : others) thread.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double operations_per_second(Arithmetic arithmetic, int threads, long rounds) {
  std::vector<double> operations(static_cast<std::size_t>(threads));
  const double seconds =
      timed(threads, [&](int thread) { operations[static_cast<std::size_t>(thread)] = arithmetic(rounds); });
  double sum = 0;
  for (double x : operations) sum += x;
  return sum / seconds;
}

double peak(Arithmetic arithmetic, int threads) {
  if (arithmetic == nullptr) return 0;
  long rounds = 1000;
  while (timed(1, [&](int) { arithmetic(rounds); }) < 0.02) rounds *= 2;
  double best = 0;
  for (int attempt = 0; attempt < 6; ++attempt)
    best = std::max(best, operations_per_second(arithmetic, threads, rounds));
  return best;
}

/// One pattern, each thread reading `size` bytes of its own from `begin` on, `passes` times over.
double read_speed(const Buffer& buffer, const ReadPattern& pattern, std::size_t begin, std::size_t size,
                  int threads, int passes) {
  const double seconds = timed(threads, [&](int thread) {
    for (int i = 0; i < passes; ++i)
      pattern.run(buffer.part(begin + static_cast<std::size_t>(thread) * size, size));
  });
  return static_cast<double>(size) * threads * passes / seconds;
}

/// The best of the patterns and which that is.
std::pair<double, int> best_read_speed(const Buffer& buffer, std::size_t size, int threads, int passes) {
  const auto patterns = read_patterns();
  const auto run = [&](int pattern) {
    return read_speed(buffer, patterns[static_cast<std::size_t>(pattern)], 0, size, threads, passes);
  };
  std::vector<std::pair<double, int>> speeds;
  for (int i = 0; i < static_cast<int>(patterns.size()); ++i) speeds.emplace_back(run(i), i);
  std::ranges::sort(speeds, std::greater<>{});
  speeds.resize(std::min<std::size_t>(speeds.size(), 3));  // the rest were slower; these get another chance
  for (int attempt = 0; attempt < 3; ++attempt) {
    for (auto& [speed, pattern] : speeds) speed = std::max(speed, run(pattern));
  }
  return *std::ranges::max_element(speeds);
}

/// Times over that `size` bytes make 128 MiB.
int passes_over(std::size_t size) { return static_cast<int>(std::max<std::size_t>(1, 128 * MiB / size)); }

std::size_t cache_size(int level) {
  std::size_t largest = 0;
  for (int index = 0; index < 8; ++index) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    int its_level = 0;
    std::size_t kib = 0;
    if (std::ifstream(folder + "level") >> its_level && std::ifstream(folder + "size") >> kib &&
        its_level == level) {
      largest = std::max(largest, kib * 1024);
    }
  }
#ifdef _SC_LEVEL3_CACHE_SIZE
  if (largest == 0) {
    const long said = sysconf(level == 2 ? _SC_LEVEL2_CACHE_SIZE : _SC_LEVEL3_CACHE_SIZE);
    if (said > 0) largest = static_cast<std::size_t>(said);
  }
#endif
  return largest;
}

std::size_t available_memory() {
  std::ifstream info("/proc/meminfo");
  for (std::string key, rest; info >> key; std::getline(info, rest)) {
    std::size_t kib = 0;
    if (key == "MemAvailable:" && info >> kib) return kib * 1024;
  }
  return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) / 2 *
         static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

std::string giga(double per_second) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(1) << per_second * 1e-9;
  return out.str();
}

}  // namespace

Machine Machine::unmeasured() {
  Machine machine;
  machine.l2_ = std::max(cache_size(2), MiB);
  machine.last_cache_ = std::max(cache_size(3), machine.l2_);
  machine.free_memory_ = available_memory();
  machine.limits_[1].threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return machine;
}

Machine Machine::measure() {
  Machine machine = unmeasured();
  // Past the last cache: at least twice its size, or a good part of every pass would be found in it.
  machine.footprint_ = std::min(std::max(1024 * MiB, 2 * machine.last_cache_), machine.free_memory_ / 2);
  const std::size_t in_l2 = machine.bytes_in(Level::l2), in_l3 = machine.bytes_in(Level::l3);
  machine.buffer_ = std::make_shared<Buffer>(
      std::max(machine.footprint_, in_l3 * static_cast<std::size_t>(machine.all_threads())));
  const Buffer& buffer = *machine.buffer_;
  for (Limits& limits : machine.limits_) {
    const int n = limits.threads;
    limits.fma_f32 = peak(fma_f32(), n);
    limits.dot_bf16 = peak(dot_bf16(), n);
    limits.matrix_bf16 = peak(matrix_bf16(), n);
    std::tie(limits.read_l2, limits.patterns[0]) = best_read_speed(buffer, in_l2, n, passes_over(in_l2));
    std::tie(limits.read_l3, limits.patterns[1]) = best_read_speed(buffer, in_l3, n, passes_over(in_l3));
    std::tie(limits.read_memory, limits.patterns[2]) =
        best_read_speed(buffer, machine.footprint_ / static_cast<std::size_t>(n), n, 1);
  }
  // Several threads can do no less than one; measured less, the other processors were busy.
  const Limits& one = machine.limits_[0];
  Limits& all = machine.limits_[1];
  for (auto limit : {&Limits::read_memory, &Limits::read_l3, &Limits::read_l2, &Limits::fma_f32,
                     &Limits::dot_bf16, &Limits::matrix_bf16})
    all.*limit = std::max(all.*limit, one.*limit);
  return machine;
}

std::size_t Machine::bytes_in(Level level) const {
  const auto cores = static_cast<std::size_t>(all_threads());
  return level == Level::l2 ? l2_ / 2 : std::min(8 * l2_, last_cache_ / (2 * cores));
}

Machine::Level Machine::level(int threads, double footprint) const {
  if (footprint <= 0.75 * static_cast<double>(l2_) * limits(threads).threads) return Level::l2;
  // A last cache is shared, often with other machines on the same host: half of it is as much as one may hope
  // for.
  return footprint <= 0.5 * static_cast<double>(last_cache_) ? Level::l3 : Level::memory;
}

Speeds Machine::best(int threads, double footprint, bool bf16) const {
  const Limits& of = limits(threads);
  const double bytes[] = {of.read_l2, of.read_l3, of.read_memory};
  return {bytes[static_cast<int>(level(threads, footprint))],
          bf16 ? std::max(of.fma_f32, of.dot_bf16) : of.fma_f32};
}

Speeds Machine::now(int threads, double footprint, bool bf16) {
  const Limits& of = limits(threads);
  const Arithmetic unit = bf16 && of.dot_bf16 > of.fma_f32 ? dot_bf16() : fma_f32();
  const double at_start = best(threads, footprint, bf16).flops;
  const long rounds = std::max(1L, static_cast<long>(0.005 * at_start / of.threads / unit(1)));  // of 5 ms
  const Level where = level(threads, footprint);
  const auto pattern = static_cast<std::size_t>(of.patterns[static_cast<std::size_t>(where)]);
  const auto read = [&](std::size_t begin, std::size_t size, int passes) {
    return read_speed(*buffer_, read_patterns()[pattern], begin, size, of.threads, passes);
  };
  Speeds speeds;
  speeds.flops = operations_per_second(unit, of.threads, rounds);
  if (where == Level::memory) {
    const std::size_t size = 64 * MiB, all = size * static_cast<std::size_t>(of.threads);
    if (next_ + all > footprint_) next_ = 0;
    speeds.bytes = read(next_, size, 1);
    next_ += all;
  } else {
    const std::size_t size = bytes_in(where);
    read(0, size, 1);  // back into the cache
    speeds.bytes = read(0, size, passes_over(size));
  }
  return speeds;
}

void Machine::describe() const {
  using benchmark::AddCustomContext;
  AddCustomContext("machine/processor", processor());
  AddCustomContext("machine/last_cache_MiB", std::to_string(last_cache_ / MiB));
  AddCustomContext("machine/footprint_MiB", std::to_string(footprint_ / MiB));
  for (const Limits& of : limits_) {
    const auto add = [&](const char* name, const std::string& value) {
      AddCustomContext("machine/" + std::string(name) + "/threads:" + std::to_string(of.threads), value);
    };
    add("read_memory_GBps", giga(of.read_memory));
    add("read_memory_pattern",
        measured() ? read_patterns()[static_cast<std::size_t>(of.patterns[2])].name() : std::string());
    add("read_l3_GBps", giga(of.read_l3));
    add("read_l2_GBps", giga(of.read_l2));
    add("fma_f32_GFLOPs", giga(of.fma_f32));
    add("dot_bf16_GFLOPs", giga(of.dot_bf16));
    add("matrix_bf16_GFLOPs", giga(of.matrix_bf16));
    if (limits_[0].threads == limits_[1].threads) break;
  }
}

}  // namespace bench
