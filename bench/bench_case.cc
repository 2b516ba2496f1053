#include "bench_case.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "console.h"
#include "weft/base/status.h"
#include "weft/memory/buffer.h"

namespace weft::bench {
namespace {

std::string MachineText() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string line;
  std::string model = "unknown cpu";
  while (std::getline(cpuinfo, line)) {
    if (line.rfind("model name", 0) == 0) {
      model = line.substr(line.find(':') + 2);
      break;
    }
  }
  return fmt::format("{}, {} cores", model,
                     std::thread::hardware_concurrency());
}

double Spread(const std::vector<double>& values) {
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  const double median = Median(values);
  return median > 0 ? (*most - *least) / median : 0;
}

// Warm, kept for the life of the process.
std::byte* KeptBuffer(int which, int64_t bytes) {
  static std::unique_ptr<memory::Buffer> buffers[2];
  std::unique_ptr<memory::Buffer>& buffer = buffers[which];
  if (buffer == nullptr || buffer->size_bytes() < bytes) {
    auto made = memory::Buffer::Allocate(memory::MemoryKind::kShared, bytes);
    if (!made.ok()) return nullptr;
    buffer = *std::move(made);
    std::memset(buffer->data(), which + 1, static_cast<size_t>(bytes));
  }
  return buffer->data();
}

}  // namespace

base::Deadline Patience() {
  return base::Deadline::After(std::chrono::seconds(120));
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
      .count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half]
                                : (values[half - 1] + values[half]) / 2;
}

absl::StatusOr<CaseResult> RunPaired(
    const std::string& name, const std::string& unit, int runs,
    const std::function<absl::StatusOr<double>()>& measure,
    const std::function<absl::StatusOr<double>()>& measure_bound) {
  std::vector<double> values;
  std::vector<double> bounds;
  for (int run = -1; run < runs; ++run) {
    WEFT_ASSIGN_OR_RETURN(const double value, measure());
    WEFT_ASSIGN_OR_RETURN(const double bound, measure_bound());
    if (run < 0) continue;
    values.push_back(value);
    bounds.push_back(bound);
  }
  return PairedResult(name, unit, values, bounds);
}

CaseResult PairedResult(const std::string& name, const std::string& unit,
                        const std::vector<double>& values,
                        const std::vector<double>& bounds) {
  std::vector<double> ratios;
  for (size_t i = 0; i < values.size(); ++i) {
    ratios.push_back(values[i] / bounds[i]);
  }
  return CaseResult{name,           Median(values),
                    unit,           Median(bounds),
                    Median(ratios), static_cast<int>(values.size()),
                    Spread(values)};
}

absl::StatusOr<CaseResult> RunTimed(
    const std::string& name, const std::string& unit, int runs,
    std::optional<double> goal,
    const std::function<absl::StatusOr<double>()>& measure) {
  std::vector<double> values;
  for (int run = -1; run < runs; ++run) {
    WEFT_ASSIGN_OR_RETURN(const double value, measure());
    if (run >= 0) values.push_back(value);
  }
  CaseResult result{name,         Median(values), unit,          goal,
                    std::nullopt, runs,           Spread(values)};
  if (goal.has_value()) result.ratio = *goal / result.value;
  return result;
}

absl::Status PrintMeasured(const std::string& name, const std::string& unit,
                           std::optional<double> goal,
                           const std::vector<double>& values,
                           const BenchOptions& options) {
  size_t next = 0;
  WEFT_ASSIGN_OR_RETURN(
      const CaseResult result,
      RunTimed(name, unit, static_cast<int>(values.size()) - 1, goal,
               [&]() -> absl::StatusOr<double> { return values[next++]; }));
  Print(result, options);
  return absl::OkStatus();
}

void Print(const CaseResult& result, const BenchOptions& options) {
  if (options.json) {
    nlohmann::json line = {
        {"case", result.name},     {"value", result.value},
        {"unit", result.unit},     {"runs", result.runs},
        {"spread", result.spread}, {"machine", MachineText()}};
    line["bound"] =
        result.bound ? nlohmann::json(*result.bound) : nlohmann::json();
    line["ratio"] =
        result.ratio ? nlohmann::json(*result.ratio) : nlohmann::json();
    apps::PrintLine(line.dump());
    return;
  }
  std::string text =
      fmt::format("{:<52} {:>9.4g} {}", result.name, result.value, result.unit);
  if (result.bound) text += fmt::format("  bound {:.4g}", *result.bound);
  if (result.ratio) text += fmt::format("  ratio {:.2f}", *result.ratio);
  text += fmt::format("  ({} runs, spread {:.0f} %)", result.runs,
                      100 * result.spread);
  apps::PrintLine(text);
}

double MemcpyRate(int64_t bytes, int threads) {
  const std::byte* src = KeptBuffer(0, bytes);
  std::byte* dst = KeptBuffer(1, bytes);
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> workers;
  const int64_t share = bytes / threads;
  for (int t = 0; t < threads; ++t) {
    workers.emplace_back([&, t] {
      std::memcpy(dst + t * share, src + t * share, static_cast<size_t>(share));
    });
  }
  for (std::thread& worker : workers) worker.join();
  return static_cast<double>(share * threads) / SecondsSince(start) / 1e9;
}

namespace {

// Four vectors of sums, so that loads and not adds are the limit; -O2 alone
// would leave it scalar, which is no bound for SIMD kernels.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
__attribute__((optimize("O3"), target_clones("avx512f", "avx2", "default")))
#endif
uint64_t
SumWords(const uint64_t* words, int64_t count) {
  uint64_t sums[32] = {};
  for (int64_t i = 0; i + 32 <= count; i += 32) {
    for (int lane = 0; lane < 32; ++lane) sums[lane] += words[i + lane];
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

}  // namespace

double ReadRate(int64_t bytes) {
  const auto* words = reinterpret_cast<const uint64_t*>(KeptBuffer(0, bytes));
  const auto start = std::chrono::steady_clock::now();
  const uint64_t total = SumWords(words, bytes / 8);
  const double seconds = SecondsSince(start);
  // Keeps the loop: the total is never this.
  if (total == 0x123456789abcdef0) apps::PrintLine("");
  return static_cast<double>(bytes) / seconds / 1e9;
}

}  // namespace weft::bench
