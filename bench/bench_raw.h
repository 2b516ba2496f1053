// Raw reads of a source's memory by a posted transport, UCX unless said
// otherwise, without plan or session: 1 MiB Gets, a window of 8. The bound of
// posted refits.
#ifndef WEFT_BENCH_BENCH_RAW_H_
#define WEFT_BENCH_BENCH_RAW_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench_fleet.h"
#include "weft/memory/buffer.h"
#include "weft/transport/transport.h"

namespace weft::bench {

class RawReader {
 public:
  // Connects to source rank 0 of the fleet.
  static absl::StatusOr<std::unique_ptr<RawReader>> Open(
      const BenchFleet& fleet, const std::string& transport);
  // GB/s of reading the largest buffer (at most 512 MiB) once.
  absl::StatusOr<double> ReadRate();

 private:
  RawReader() = default;
  // Destroyed in reverse: regions before the peer, the peer before its
  // transport, registrations before their memory.
  std::unique_ptr<memory::Buffer> local_;
  std::vector<std::shared_ptr<transport::Transport>> transports_;
  std::unique_ptr<transport::Region> local_region_;
  std::unique_ptr<transport::Peer> peer_;
  std::unique_ptr<transport::RemoteRegion> remote_;
};

}  // namespace weft::bench

#endif  // WEFT_BENCH_BENCH_RAW_H_
