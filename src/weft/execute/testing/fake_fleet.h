// A RefitCase with fake wires between its ranks.
#ifndef WEFT_EXECUTE_TESTING_FAKE_FLEET_H_
#define WEFT_EXECUTE_TESTING_FAKE_FLEET_H_

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "weft/convert/kernel.h"
#include "weft/execute/executor.h"
#include "weft/execute/testing/fake_wire.h"
#include "weft/execute/testing/refit_case.h"

namespace weft::execute::testing {

enum class Access { kMapped, kPosted, kMixed };

class FakeFleet {
 public:
  FakeFleet(RefitCase& refit, Access access, uint64_t seed)
      : refit_(refit), random_(seed), access_(access) {
    local_region_ =
        std::make_unique<FakeRegion>(refit.target_memory.buffer->span());
    for (size_t r = 0; r < refit.sources.size(); ++r) {
      peers.push_back(std::make_unique<FakePeer>(
          absl::StrCat("publisher rank ", r), random_()));
    }
  }

  // What BindPull takes: peers[r] reaches source rank r.
  std::vector<RemoteRank> Remotes() {
    std::vector<RemoteRank> remotes;
    for (size_t r = 0; r < refit_.sources.size(); ++r) {
      remotes.push_back(
          Remote(static_cast<int64_t>(r), refit_.memories[r], *peers[r]));
    }
    return remotes;
  }
  // What BindPush takes, for rank r: peers[r] reaches the target.
  RemoteRank TargetFor(size_t r) {
    return Remote(0, refit_.target_memory, *peers[r]);
  }
  std::vector<LocalStored> TargetLocal(bool registered) {
    return Local(refit_.target_memory,
                 registered ? local_region_.get() : nullptr);
  }
  std::vector<LocalStored> SourceLocal(size_t r) {
    return Local(refit_.memories[r], nullptr);
  }

  // "" or the first wrong use of a wire.
  std::string Complaint(int window) const {
    for (const auto& peer : peers) {
      if (!peer->complaint.empty()) return peer->complaint;
      if (peer->max_in_flight > window) {
        return absl::StrCat(peer->max_in_flight,
                            " operations in flight in a window of ", window);
      }
    }
    return "";
  }

  FakeTransport transport;
  std::vector<std::unique_ptr<FakePeer>> peers;

 private:
  bool Mapped() {
    if (access_ == Access::kMixed) return random_() % 2 == 0;
    return access_ == Access::kMapped;
  }
  RemoteRank Remote(int64_t rank, const RankMemory& memory, FakePeer& peer) {
    RemoteRank remote;
    remote.rank = rank;
    remote.peer = &peer;
    remote.transport = &transport;
    for (const int64_t offset : memory.offsets) {
      regions_.push_back(
          std::make_unique<FakeRemoteRegion>(memory.buffer->span(), Mapped()));
      remote.stored.push_back({regions_.back().get(), offset});
    }
    return remote;
  }
  static std::vector<LocalStored> Local(const RankMemory& memory,
                                        const transport::Region* region) {
    std::vector<LocalStored> local;
    for (size_t s = 0; s < memory.offsets.size(); ++s) {
      local.push_back({memory.at(s), memory.sizes[s], region});
    }
    return local;
  }

  RefitCase& refit_;
  std::mt19937_64 random_;
  Access access_;
  std::unique_ptr<FakeRegion> local_region_;
  std::vector<std::unique_ptr<FakeRemoteRegion>> regions_;
};

}  // namespace weft::execute::testing

#endif  // WEFT_EXECUTE_TESTING_FAKE_FLEET_H_
