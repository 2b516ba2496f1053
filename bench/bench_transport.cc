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
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench_case.h"
#include "bench_fleet.h"
#include "bench_raw.h"
#include "weft/base/status.h"

namespace weft::bench {
namespace {

// GB/s that ucx_perftest prints for `test` on this host. With `tls` as its
// UCX_TLS, unless the environment has one.
absl::StatusOr<double> PerftestRate(std::string_view test,
                                    const std::string& tls = "") {
  // The server ends by itself after one client; the port is our own.
  const int port = 20000 + static_cast<int>(getpid() % 20000);
  const std::string tool = tls.empty() || std::getenv("UCX_TLS") != nullptr
                               ? "ucx_perftest"
                               : absl::StrCat("UCX_TLS=", tls, " ucx_perftest");
  const std::string server =
      absl::StrCat(tool, " -p ", port, " >/dev/null 2>&1 & sleep 0.5; ");
  const std::string client =
      absl::StrCat(tool, " 127.0.0.1 -p ", port, " -t ", std::string(test),
                   " -s 67108864 -n 12 -w 2 -f 2>/dev/null; wait");
  FILE* pipe = popen((server + client).c_str(), "r");
  if (pipe == nullptr) return absl::InternalError("cannot start ucx_perftest");
  std::string last;
  std::array<char, 512> line;
  while (std::fgets(line.data(), line.size(), pipe) != nullptr) {
    // The row of figures is indented; everything else begins with + or |.
    const std::string row = line.data();
    const size_t begin = row.find_first_not_of(' ');
    if (begin != std::string::npos && row[begin] >= '0' && row[begin] <= '9') {
      last = row;
    }
  }
  pclose(pipe);
  // Columns of -f: iterations, typical, average, overall latency,
  // average and overall bandwidth (MB/s of 2^20), average, overall rate.
  double column[8] = {};
  if (std::sscanf(last.c_str(), "%lf %lf %lf %lf %lf %lf %lf %lf", &column[0],
                  &column[1], &column[2], &column[3], &column[4], &column[5],
                  &column[6], &column[7]) < 6) {
    return absl::NotFoundError(
        "ucx_perftest printed no result; install ucx-utils");
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
