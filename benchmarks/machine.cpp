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
#include <thread>
#include <vector>

#include "peak.hpp"

namespace bench {
namespace {

constexpr std::size_t MiB = std::size_t{1} << 20;

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

double peak(Arithmetic arithmetic, int threads) {
  if (arithmetic == nullptr) return 0;
  long rounds = 1000;
  while (timed(1, [&](int) { arithmetic(rounds); }) < 0.02) rounds *= 2;
  double best = 0;
  for (int attempt = 0; attempt < 6; ++attempt) {
    std::vector<double> operations(static_cast<std::size_t>(threads));
    const double seconds = timed(
        threads, [&](int thread) { operations[static_cast<std::size_t>(thread)] = arithmetic(rounds); });
    double sum = 0;
    for (double x : operations) sum += x;
    best = std::max(best, sum / seconds);
  }
  return best;
}

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

/// The best of the patterns, each thread reading `size` bytes of its own `passes` times over.
double read_speed(const Buffer& buffer, std::size_t size, int threads, int passes,
                  std::string* best_pattern) {
  const auto run = [&](const ReadPattern& pattern) {
    const double seconds = timed(threads, [&](int thread) {
      for (int i = 0; i < passes; ++i)
        pattern.run(buffer.part(static_cast<std::size_t>(thread) * size, size));
    });
    return static_cast<double>(size) * threads * passes / seconds;
  };
  std::vector<std::pair<double, const ReadPattern*>> speeds;
  for (const ReadPattern& pattern : read_patterns()) speeds.emplace_back(run(pattern), &pattern);
  std::ranges::sort(speeds, std::greater<>{}, [](const auto& x) { return x.first; });
  speeds.resize(std::min<std::size_t>(speeds.size(), 3));  // the rest were slower; these get another chance
  for (int attempt = 0; attempt < 3; ++attempt) {
    for (auto& [speed, pattern] : speeds) speed = std::max(speed, run(*pattern));
  }
  const auto best = *std::ranges::max_element(speeds, {}, [](const auto& x) { return x.first; });
  if (best_pattern != nullptr) *best_pattern = best.second->name();
  return best.first;
}

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
  const auto cores = static_cast<std::size_t>(machine.all_threads());
  // Past the last cache: at least twice its size, or a good part of every pass would be found in it.
  machine.footprint_ = std::min(std::max(1024 * MiB, 2 * machine.last_cache_), machine.free_memory_ / 2);
  const std::size_t in_l2 = machine.l2_ / 2;
  const std::size_t in_l3 = std::min(8 * machine.l2_, machine.last_cache_ / (2 * cores));
  const Buffer buffer(std::max(machine.footprint_, in_l3 * cores));
  for (Limits& limits : machine.limits_) {
    const auto n = static_cast<std::size_t>(limits.threads);
    const auto passes = [](std::size_t size) {
      return static_cast<int>(std::max<std::size_t>(1, 128 * MiB / size));
    };
    limits.fma_f32 = peak(fma_f32(), limits.threads);
    limits.dot_bf16 = peak(dot_bf16(), limits.threads);
    limits.matrix_bf16 = peak(matrix_bf16(), limits.threads);
    limits.read_l2 = read_speed(buffer, in_l2, limits.threads, passes(in_l2), nullptr);
    limits.read_l3 = read_speed(buffer, in_l3, limits.threads, passes(in_l3), nullptr);
    limits.read_memory = read_speed(buffer, machine.footprint_ / n, limits.threads, 1, &limits.best_pattern);
  }
  // Several threads can do no less than one; measured less, the other processors were busy.
  const Limits& one = machine.limits_[0];
  Limits& all = machine.limits_[1];
  for (auto limit : {&Limits::read_memory, &Limits::read_l3, &Limits::read_l2, &Limits::fma_f32,
                     &Limits::dot_bf16, &Limits::matrix_bf16})
    all.*limit = std::max(all.*limit, one.*limit);
  return machine;
}

double Machine::bandwidth(int threads, double footprint) const {
  const Limits& of = limits(threads);
  if (footprint <= 0.75 * static_cast<double>(l2_) * of.threads) return of.read_l2;
  // A last cache is shared, often with other machines on the same host: half of it is as much as one may hope
  // for.
  return footprint <= 0.5 * static_cast<double>(last_cache_) ? of.read_l3 : of.read_memory;
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
    add("read_memory_pattern", of.best_pattern);
    add("read_l3_GBps", giga(of.read_l3));
    add("read_l2_GBps", giga(of.read_l2));
    add("fma_f32_GFLOPs", giga(of.fma_f32));
    add("dot_bf16_GFLOPs", giga(of.dot_bf16));
    add("matrix_bf16_GFLOPs", giga(of.matrix_bf16));
    if (limits_[0].threads == limits_[1].threads) break;
  }
}

}  // namespace bench
