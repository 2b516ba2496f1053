// Workloads: our Get of 1 MiB, window 8, over 512 MiB, two processes, against
// what ucx_perftest (Debian's ucx-utils) reaches with the same UCX_TLS:
//   transport/ucx-get-1MiB/messages   ucp_am_bw: messages, as our Gets travel
//                                     to a peer that has no RDMA
//   transport/ucx-get-1MiB/one-sided  ucp_get: through tcp, UCX's emulation;
//                                     through shared memory, a mapping of
//                                     memory that UCX allocated itself, which
//                                     a trainer's or an engine's is not
// and with --transport nixl, through NIXL:
//   transport/nixl-get-1MiB/memcpy    one thread's copy: what a Get is where
//                                     UCX reads the peer's memory (cma)
//   transport/nixl-get-1MiB/one-sided ucp_get through the same wire
// 64 MiB a message, past the caches, as weights are.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench_case.h"
#include "bench_fleet.h"
#include "bench_raw.h"
#include "child_process.h"
#include "weft/base/status.h"

namespace weft::bench {
namespace {

// The row of figures that a client of ucx_perftest prints; empty if it reached
// no server.
absl::StatusOr<std::string> PerftestRow(const std::vector<std::string>& argv) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<apps::ChildProcess> client,
                        apps::ChildProcess::Start("ucx_perftest", argv));
  std::string row;
  while (true) {
    const absl::StatusOr<std::string> line = client->ReadLine(Patience());
    if (absl::IsDeadlineExceeded(line.status())) return line.status();
    if (!line.ok()) break;
    // The row of figures is indented; everything else begins with + or |.
    const size_t begin = line->find_first_not_of(' ');
    if (begin != std::string::npos && (*line)[begin] >= '0' &&
        (*line)[begin] <= '9') {
      row = *line;
    }
  }
  WEFT_ASSIGN_OR_RETURN(const int code, client->Wait(Patience()));
  constexpr int kNoSuchProgram = 127;  // of env
  if (code == kNoSuchProgram) {
    return absl::NotFoundError(
        "ucx_perftest is not installed; install ucx-utils");
  }
  return row;
}

// GB/s that ucx_perftest prints for `test` on this host. With `tls` as its
// UCX_TLS, unless the environment has one.
absl::StatusOr<double> PerftestRate(std::string_view test,
                                    const std::string& tls = "") {
  std::vector<std::string> argv = {"/usr/bin/env"};
  if (!tls.empty() && std::getenv("UCX_TLS") == nullptr) {
    argv.push_back(absl::StrCat("UCX_TLS=", tls));
  }
  // The server ends by itself after one client; the port is our own.
  const int port = 20000 + static_cast<int>(getpid() % 20000);
  argv.insert(argv.end(), {"ucx_perftest", "-p", absl::StrCat(port)});
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<apps::ChildProcess> server,
      apps::ChildProcess::Start("ucx_perftest's server", argv));
  argv.insert(argv.end(), {"127.0.0.1", "-t", std::string(test), "-s",
                           "67108864", "-n", "12", "-w", "2", "-f"});
  std::string last;
  // It does not say when it listens: a client asks again.
  const base::Deadline listens =
      base::Deadline::After(std::chrono::seconds(10));
  while (last.empty() && !listens.Passed()) {
    WEFT_ASSIGN_OR_RETURN(last, PerftestRow(argv));
    if (last.empty()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }
  // Columns of -f: iterations, typical, average, overall latency,
  // average and overall bandwidth (MB/s of 2^20), average, overall rate.
  double column[8] = {};
  if (std::sscanf(last.c_str(), "%lf %lf %lf %lf %lf %lf %lf %lf", &column[0],
                  &column[1], &column[2], &column[3], &column[4], &column[5],
                  &column[6], &column[7]) < 6) {
    return absl::NotFoundError("ucx_perftest printed no result");
  }
  return column[5] * 1048576 / 1e9;
}

absl::Status BenchNixl(const BenchOptions& options) {
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<BenchFleet> fleet,
      BenchFleet::Start("contiguous", int64_t{512} << 20, "nixl"));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<RawReader> raw,
                        RawReader::Open(*fleet, "nixl"));
  const char* tls = std::getenv("UCX_TLS");
  const std::string name =
      tls == nullptr ? "transport/nixl-get-1MiB"
                     : absl::StrCat("transport/nixl[", tls, "]-get-1MiB");
  const std::pair<const char*, std::function<absl::StatusOr<double>()>>
      bounds[] = {{"memcpy", [] { return MemcpyRate(int64_t{512} << 20, 1); }},
                  {"one-sided",
                   [] { return PerftestRate("ucp_get", "cma,tcp,self"); }}};
  for (const auto& [against, bound] : bounds) {
    WEFT_ASSIGN_OR_RETURN(
        const CaseResult result,
        RunPaired(
            absl::StrCat(name, "/", against), "GB/s", options.runs,
            [&] { return raw->ReadRate(); }, bound));
    Print(result, options);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchTransport(const BenchOptions& options) {
  if (options.transport == "nixl") return BenchNixl(options);
  // Weft's default, for ucx_perftest too.
  setenv("UCX_TLS", "^mm", /*overwrite=*/0);
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<BenchFleet> fleet,
      BenchFleet::Start("contiguous", int64_t{512} << 20, "ucx"));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<RawReader> raw,
                        RawReader::Open(*fleet, "ucx"));
  const std::string name =
      absl::StrCat("transport/ucx[", std::getenv("UCX_TLS"), "]-get-1MiB");
  for (const auto& [way, test] : {std::pair{"messages", "ucp_am_bw"},
                                  std::pair{"one-sided", "ucp_get"}}) {
    WEFT_ASSIGN_OR_RETURN(const CaseResult result,
                          RunPaired(
                              absl::StrCat(name, "/", way), "GB/s",
                              options.runs, [&] { return raw->ReadRate(); },
                              [&] { return PerftestRate(test); }));
    Print(result, options);
  }
  return absl::OkStatus();
}

}  // namespace weft::bench
