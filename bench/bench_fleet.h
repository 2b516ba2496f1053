// A catalog and the source ranks of a job, each a process of its own.
#ifndef WEFT_BENCH_BENCH_FLEET_H_
#define WEFT_BENCH_BENCH_FLEET_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "bench_job.h"
#include "child_process.h"
#include "weft/session/receiver.h"

namespace weft::bench {

class BenchFleet {
 public:
  // `http`: where the catalog tells its metrics, HOST:PORT.
  static absl::StatusOr<std::unique_ptr<BenchFleet>> Start(
      const std::string& job, int64_t bytes, const std::string& transport,
      const std::string& device = "cpu", const std::string& http = "none");

  // Changes every source and publishes the next version; seconds of control
  // that the slowest publisher reported.
  absl::StatusOr<double> Step();
  // The process of a source, to be killed.
  apps::ChildProcess& source(size_t rank) { return *sources_[rank]; }
  const BenchJob& job() const { return job_; }
  const std::string& address() const { return address_; }
  const std::string& http_address() const { return http_address_; }
  const std::string& name() const { return name_; }

 private:
  BenchFleet() = default;
  std::string name_;
  BenchJob job_;
  std::string address_;
  std::string http_address_;
  std::unique_ptr<apps::ChildProcess> catalog_;
  std::vector<std::unique_ptr<apps::ChildProcess>> sources_;
};

// A receiver of the fleet's target in this process, with its memory.
struct BenchReceiver {
  session::OwnedRankMemory owned;
  std::unique_ptr<session::Receiver> receiver;
};
// `adjust`, if given, has the last word on its options.
absl::StatusOr<std::unique_ptr<BenchReceiver>> MakeBenchReceiver(
    const BenchFleet& fleet, const std::string& transport, int threads,
    execute::PostedWay way, bool verify,
    const std::function<void(session::ReceiverOptions&)>& adjust = nullptr);

// All of them at once; the longest control of any, in seconds.
absl::StatusOr<double> RefitAtOnce(
    absl::Span<const std::unique_ptr<BenchReceiver>> receivers);

}  // namespace weft::bench

#endif  // WEFT_BENCH_BENCH_FLEET_H_
