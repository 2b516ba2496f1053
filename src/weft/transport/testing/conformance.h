// What every Transport must do. A leaf registers itself:
//
//   INSTANTIATE_TEST_SUITE_P(Shm, TransportConformance, testing::Values(...));
#ifndef WEFT_TRANSPORT_TESTING_CONFORMANCE_H_
#define WEFT_TRANSPORT_TESTING_CONFORMANCE_H_

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "weft/memory/buffer.h"
#include "weft/transport/testing/case_memory.h"
#include "weft/transport/transport.h"

namespace weft::transport {

struct ConformanceCase {
  std::string name;
  std::function<absl::StatusOr<std::unique_ptr<Transport>>()> make;
  // What peer_main.cc calls it; empty for a leaf that stays in one process.
  std::string process_name = "";
  // Not OK with a library that this machine need not have: the suite skips.
  std::function<absl::Status()> unavailable = {};
  // Whether a Get on a region that its owner freed must fail. Where hardware
  // or a library moves the bytes unasked, only Import and Gather can refuse.
  bool refuses_get_after_free = true;
  // Whether an owner outlives a reader that goes while it reads; not where UCX
  // answers by itself (ucx_transport.h).
  bool outlives_readers = true;
  // Where regions and local memory lie; empty: with the host.
  std::function<CasePlaces()> places = {};
  // The kind of memory of every other process (peer_main.cc); empty: as the
  // test says.
  std::string process_memory = "";

  friend void PrintTo(const ConformanceCase& c, std::ostream* out) {
    *out << c.name;
  }
};

// Long enough for a loaded machine: a test that waits so long has failed.
inline constexpr std::chrono::seconds kConformancePatience{60};

class TransportConformance : public testing::TestWithParam<ConformanceCase> {
 protected:
  void SetUp() override;
  std::unique_ptr<Transport> Make();
  std::unique_ptr<Peer> Connect(Transport& from, const Transport& to,
                                const std::string& label = "publisher rank 3");
  static base::Deadline Patience() {
    return base::Deadline::After(kConformancePatience);
  }
};

// Polls until `count` completions came or `deadline` passed; the statuses by
// tag. A tag that comes twice is a failure.
std::map<OpTag, absl::Status> Collect(Peer& peer, size_t count,
                                      base::Deadline deadline);
// Posts by `post(tag)` and waits for it: the first error of both.
absl::Status RunOne(Peer& peer, const std::function<absl::Status(OpTag)>& post);
absl::Status GetNow(Peer& peer, const RemoteRegion& remote, int64_t offset,
                    absl::Span<std::byte> local);
absl::Status PutNow(Peer& peer, const RemoteRegion& remote, int64_t offset,
                    absl::Span<const std::byte> local);
absl::Status GatherNow(Peer& peer, const RemoteRegion& remote,
                       const StridedPieces& pieces,
                       absl::Span<std::byte> local);
// Polls Health until the peer is known dead.
absl::Status AwaitDeath(Peer& peer, base::Deadline deadline);

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_TESTING_CONFORMANCE_H_
