// SPDX-License-Identifier: Apache-2.0
// gqa_bench: measures the machine, then each case against it. benchmarks/README.md says how to read the
// report.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <gqa/core/version.hpp>
#include <gqa/simd/isa.hpp>
#include <iostream>

#include "rows.hpp"
#include "serve.hpp"
#include "store.hpp"

namespace bench {
namespace {

/// The least time a row can take at these speeds, in seconds.
double floor_seconds(const Row& row, const Speeds& speeds) {
  return std::max(row.bytes / speeds.bytes, row.flops / speeds.flops);
}

/// Times one repetition of a row between two probes of the machine: what slows it for a moment slows both,
/// and their ratio stays.
void time(benchmark::State& state, const Row& row, Machine& machine, Store& store) {
  Subject* subject = nullptr;
  Eigen::ThreadPool* pool = nullptr;
  try {
    subject = &store.subject(row);
    pool = store.pool(row.threads);
    if (const std::string wrong = store.check(row, *subject); !wrong.empty())
      return state.SkipWithError(wrong.c_str());
  } catch (const std::exception& error) {
    return state.SkipWithError(error.what());
  }
  const bool bf16 = row.dtype == Dtype::bf16;
  const auto probe = [&] { return machine.now(row.threads, row.footprint, bf16); };
  const Speeds before = machine.measured() ? probe() : Speeds{};
  const auto start = std::chrono::steady_clock::now();
  for (auto _ : state) subject->run(pool);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  const double seconds = elapsed.count() / static_cast<double>(state.iterations());

  state.counters["bytes"] = row.bytes;
  state.counters["flops"] = row.flops;
  if (machine.measured()) {
    const Speeds after = probe();
    const double floor =
        floor_seconds(row, {(before.bytes + after.bytes) / 2, (before.flops + after.flops) / 2});
    Speeds best = machine.best(row.threads, row.footprint, bf16);
    state.counters["floor_ms"] = floor * 1e3;
    state.counters["roofline"] = floor / seconds;
    state.counters["roofline_at_best"] = floor_seconds(row, best) / seconds;
    best.flops = machine.limits(row.threads).matrix_bf16;
    if (bf16 && best.flops != 0 && row.flops != 0)
      state.counters["matrix_unit_floor_ms"] = 1e3 * floor_seconds(row, best);
  }
  for (const auto& [key, value] : row.counters) state.counters[key] = value;
  for (const auto& [key, value] : subject->measure(seconds)) state.counters[key] = value;
  state.SetLabel(row.footprint <= 0.5 * static_cast<double>(machine.last_cache()) ? "in cache"
                                                                                  : "from memory");
}

/// Rows are timed by the wall clock; their names need not say so.
template <class Reporter>
class PlainNames : public Reporter {
 public:
  using Reporter::Reporter;
  void ReportRuns(const std::vector<benchmark::BenchmarkReporter::Run>& runs) override {
    auto renamed = runs;
    for (auto& run : renamed) run.run_name.time_type.clear();
    Reporter::ReportRuns(renamed);
  }
};

/// Removes `flag` from the arguments if it is there.
bool take_flag(int& argc, char** argv, const char* flag) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], flag) != 0) continue;
    std::move(argv + i + 1, argv + argc, argv + i);
    --argc;
    return true;
  }
  return false;
}

/// What follows `flag=`; empty where it is not given.
std::string value_of(int argc, char** argv, const std::string& flag) {
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]).starts_with(flag + "=")) return argv[i] + flag.size() + 1;
  }
  return {};
}

constexpr const char* help =
    R"(Measures this machine, checks each case against the oracle, times it and says how near the limit it comes.
Usage: gqa_bench [OPTIONS]

Options:
  -h,--help                   print this help
  --version                   print the version
  --list                      print the rows there are, with what memory each takes
  --no_machine                do not measure the machine: times alone
  --serve                     time rows named on standard input, for benchmarks/peers
  --benchmark_filter=REGEX    rows to time
  --benchmark_format=FORMAT   console or json
  --benchmark_out=FILE        write the results to a file, too
  --benchmark_repetitions=N   of each row
  --benchmark_min_time=S      seconds of each repetition
  --benchmark_color=WHEN      auto (on a terminal), true or false
Other flags of Google Benchmark work, too.
)";

/// Whether the table is coloured: on a terminal, unless a flag says otherwise.
bool coloured(const std::string& when) {
  if (when.empty() || when == "auto") return ::isatty(STDOUT_FILENO) == 1;
  return when == "true" || when == "yes" || when == "on" || when == "1";
}

std::string version_text() {
  return std::to_string(gqa::version.major) + "." + std::to_string(gqa::version.minor) + "." +
         std::to_string(gqa::version.patch);
}

int run(int argc, char** argv) {
  if (take_flag(argc, argv, "--help") || take_flag(argc, argv, "-h")) {
    std::cout << help;
    return 0;
  }
  if (take_flag(argc, argv, "--version")) {
    std::cout << "gqa_bench gqa " << version_text() << "\n";
    return 0;
  }
  if (take_flag(argc, argv, "--serve")) return serve(std::cin, std::cout);
  const bool unmeasured = take_flag(argc, argv, "--no_machine");
  const bool list = take_flag(argc, argv, "--list");
  const bool json = value_of(argc, argv, "--benchmark_format") == "json";
  const bool file = !value_of(argc, argv, "--benchmark_out").empty();
  const bool colours = coloured(value_of(argc, argv, "--benchmark_color"));
  benchmark::Initialize(&argc, argv);
  if (argc > 1) {
    std::cerr << "gqa_bench: " << argv[1] << " is no option of this program\n";
    return 2;
  }
  if (list) {
    for (const Row& row : all_rows(Machine::unmeasured()))
      std::cout << row.name << '\t' << row.memory_key << '\t' << row.memory / 1048576 << '\n';
    return 0;
  }

  Machine machine = unmeasured ? Machine::unmeasured() : Machine::measure();
  machine.describe();
  benchmark::AddCustomContext("gqa/version", version_text());
  benchmark::AddCustomContext("gqa/isa", gqa::name(gqa::isa()));
#ifdef BENCH_FOR_CHECKS
  benchmark::AddCustomContext("gqa/build", "beside tests, at -O1: for checks, not for figures");
#endif
  Store store(machine);
  const std::vector<Row> rows = all_rows(machine);
  for (const Row& row : rows) {
    benchmark::RegisterBenchmark(row.name.c_str(),
                                 [&](benchmark::State& state) { time(state, row, machine, store); })
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  }
  PlainNames<benchmark::ConsoleReporter> console(colours ? benchmark::ConsoleReporter::OO_ColorTabular
                                                         : benchmark::ConsoleReporter::OO_Tabular);
  PlainNames<benchmark::JSONReporter> to_display, to_file;
  benchmark::BenchmarkReporter* display = &console;
  if (json) display = &to_display;
  const std::size_t matched = benchmark::RunSpecifiedBenchmarks(display, file ? &to_file : nullptr);
  benchmark::Shutdown();
  return matched == 0 ? 2 : 0;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) try { return bench::run(argc, argv); } catch (const std::exception& error) {
  std::cerr << "gqa_bench: " << error.what() << '\n';
  return 2;
}
