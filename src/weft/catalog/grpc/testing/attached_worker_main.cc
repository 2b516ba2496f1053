// A publisher in a process of its own, for tests that kill it: registers,
// attaches, publishes one step, and then waits for its end.
//
//   catalog_attached_worker ADDRESS MODEL RUN RANK NUM_RANKS STEP DIGEST

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "weft/base/status.h"
#include "weft/catalog/grpc/grpc_client.h"

namespace weft::catalog {
namespace {

absl::Status Serve(char** argv) {
  const auto deadline = base::Deadline::After(std::chrono::seconds(60));
  WorkerInfo info;
  info.model = argv[2];
  info.run_id = argv[3];
  uint64_t step = 0;
  if (!absl::SimpleAtoi(argv[4], &info.rank) ||
      !absl::SimpleAtoi(argv[5], &info.num_ranks) ||
      !absl::SimpleAtoi(argv[6], &step)) {
    return absl::InvalidArgumentError("rank, ranks and step are numbers");
  }
  info.placement_digest_hex = argv[7];
  info.process_id = getpid();
  WEFT_ASSIGN_OR_RETURN(const auto store, MakeGrpcClient(argv[1]));
  WEFT_ASSIGN_OR_RETURN(const Registration registration,
                        store->Register(info, "binding", deadline));
  WEFT_ASSIGN_OR_RETURN(const auto attachment,
                        store->Attach(registration.worker_id, deadline));
  WEFT_RETURN_IF_ERROR(
      store->PublishShard(registration.worker_id, step, deadline).status());
  while (true) pause();
}

}  // namespace
}  // namespace weft::catalog

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  const absl::Status status = weft::catalog::Serve(argv);
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
