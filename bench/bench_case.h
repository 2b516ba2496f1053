// One benchmark case: a figure, the bound measured in the same run, and how
// the runs spread. Workloads are listed at the top of each bench_*.cc.
#ifndef WEFT_BENCH_BENCH_CASE_H_
#define WEFT_BENCH_BENCH_CASE_H_

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/deadline.h"

namespace weft::bench {

struct BenchOptions {
  bool json = false;
  int runs = 5;
  int threads = 2;
  // Bytes that one refit case moves.
  int64_t bytes = int64_t{1} << 30;
  // Of `weft bench transport` and of the posted cases of `refit`: ucx or nixl.
  std::string transport = "ucx";
  // One part of `weft bench gpu` or `catalog`; empty: all.
  std::string only = "";

  bool Wants(std::string_view part) const {
    return only.empty() || only == part;
  }
};

struct CaseResult {
  std::string name;
  double value = 0;
  std::string unit;
  std::optional<double> bound;
  // value/bound where larger is better, bound/value where smaller is.
  std::optional<double> ratio;
  int runs = 0;
  double spread = 0;  // (max - min) / median of the runs
};

// A deadline that only a hang passes.
base::Deadline Patience();

double SecondsSince(std::chrono::steady_clock::time_point start);
double Median(std::vector<double> values);

// Runs `measure` and `measure_bound` in turn, `runs` times each after one
// warm-up, so that drift of the machine meets both; value and bound are the
// medians, the ratio is the median of the pairs' ratios. Both return a rate
// (larger is better).
absl::StatusOr<CaseResult> RunPaired(
    const std::string& name, const std::string& unit, int runs,
    const std::function<absl::StatusOr<double>()>& measure,
    const std::function<absl::StatusOr<double>()>& measure_bound);

// The same of values and bounds that were measured in turn by other means.
CaseResult PairedResult(const std::string& name, const std::string& unit,
                        const std::vector<double>& values,
                        const std::vector<double>& bounds);

// A duration with a fixed goal (`bound`, same unit), smaller is better.
absl::StatusOr<CaseResult> RunTimed(
    const std::string& name, const std::string& unit, int runs,
    std::optional<double> goal,
    const std::function<absl::StatusOr<double>()>& measure);

// What was measured along with another case, one value after the other, the
// first as warm-up.
absl::Status PrintMeasured(const std::string& name, const std::string& unit,
                           std::optional<double> goal,
                           const std::vector<double>& values,
                           const BenchOptions& options);

// A line of JSON {"case","value","unit","bound","ratio","runs","spread",
// "machine"}, or a line for a person.
void Print(const CaseResult& result, const BenchOptions& options);

// GB/s of copying `bytes` between two warm buffers with `threads` threads, and
// of reading them on one core. Buffers are made once and kept.
double MemcpyRate(int64_t bytes, int threads);
double ReadRate(int64_t bytes);

absl::Status BenchDigest(const BenchOptions& options);
absl::Status BenchConvert(const BenchOptions& options);
absl::Status BenchPlan(const BenchOptions& options);
absl::Status BenchTransport(const BenchOptions& options);
absl::Status BenchCatalog(const BenchOptions& options);
absl::Status BenchRefit(const BenchOptions& options);
absl::Status BenchGpu(const BenchOptions& options);

}  // namespace weft::bench

#endif  // WEFT_BENCH_BENCH_CASE_H_
