// The seeds of fuzz_catalog_state: lives of small fleets, in the format that is
// read now, each command of which is taken. A seed of another format is refused
// at its first byte, and the fuzzer has to find all of it by chance.
// WEFT_UPDATE_SEEDS=1 writes them anew.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "weft/catalog/state/replica.h"

namespace weft::catalog {
namespace {

using Kind = Command::Kind;

const std::string kDigest(64, 'd');

class Fleet {
 public:
  Fleet() {
    Do({.kind = Kind::kJoin, .number = 1000});
    Do({.kind = Kind::kPutPlacement, .id = kDigest, .text = "p", .number = 9});
  }

  std::string Join(Role role, int64_t rank, int64_t num_ranks,
                   uint64_t epoch = 0) {
    Command command{.kind = Kind::kRegister, .text = "binding"};
    WorkerInfo& info = command.info;
    info.model = "m";
    info.role = role;
    info.layout_spec = "hf";
    info.rank = rank;
    info.num_ranks = num_ranks;
    info.host_id = "h";
    if (role != Role::kReceiver) {
      info.run_id = "run";
      info.epoch = epoch;
      info.placement_digest_hex = kDigest;
    }
    if (role == Role::kPublisher) {
      info.shard_key = std::string(64, static_cast<char>('a' + rank));
      info.labels = {{"precision", "bf16"}};
    }
    if (role == Role::kCopy) {
      info.held_shards = {std::string(64, 'a'), std::string(64, 'b')};
    }
    const std::string id = Do(command).registration.worker_id;
    Do({.kind = Kind::kAttach, .id = id, .token = ++token_});
    return id;
  }
  void Publish(const std::string& id, uint64_t step) {
    Do({.kind = Kind::kPublish, .id = id, .number = step});
  }
  std::string Lease(const std::string& id) {
    return Do({.kind = Kind::kAcquireNewest, .id = id}).lease.lease_id;
  }
  CommandResult Do(Command command) {
    command.server = "s";
    command.sequence = ++sequence_;
    command.now_ns = static_cast<int64_t>(sequence_) * 1'000'000;
    const std::string bytes = EncodeCommand(command);
    seed_ += static_cast<char>(bytes.size() & 0xff);
    seed_ += static_cast<char>(bytes.size() >> 8);
    seed_ += bytes;
    const Replica::Outcome outcome = replica_.Apply(bytes);
    EXPECT_TRUE(outcome.result.has_value()) << "command " << sequence_;
    if (!outcome.result.has_value()) return {};
    EXPECT_EQ(outcome.result->status, absl::OkStatus())
        << "command " << sequence_;
    return *outcome.result;
  }
  // Behind an empty snapshot.
  std::string seed() const { return std::string(4, '\0') + seed_; }

 private:
  Replica replica_{StateOptions{.first_number = 1}};
  std::string seed_;
  uint64_t sequence_ = 0;
  uint64_t token_ = 0;
};

std::string Refit() {
  Fleet fleet;
  const std::string rank0 = fleet.Join(Role::kPublisher, 0, 2);
  const std::string rank1 = fleet.Join(Role::kPublisher, 1, 2);
  const std::string engine = fleet.Join(Role::kReceiver, 0, 1);
  fleet.Publish(rank0, 1);
  fleet.Publish(rank1, 1);
  std::string lease = fleet.Lease(engine);
  fleet.Do({.kind = Kind::kRenew, .id = lease});
  fleet.Do({.kind = Kind::kRelease, .id = lease, .flag = true});
  lease = fleet.Lease(engine);
  fleet.Do({.kind = Kind::kRetire, .id = rank0});
  fleet.Do({.kind = Kind::kRevoke, .text = "m", .version = {"run", 0, 1}});
  fleet.Do({.kind = Kind::kReport, .id = engine, .text = "torn"});
  fleet.Do({.kind = Kind::kOrphan, .id = engine, .token = 3});
  fleet.Do({.kind = Kind::kReattach,
            .id = engine,
            .number = std::stoull(engine.substr(1)),
            .token = 9});
  fleet.Do({.kind = Kind::kDetach, .id = engine, .token = 9, .flag = true});
  fleet.Do({.kind = Kind::kTick});
  return fleet.seed();
}

std::string Takeover() {
  Fleet fleet;
  fleet.Publish(fleet.Join(Role::kPublisher, 0, 1), 7);
  fleet.Publish(fleet.Join(Role::kPublisher, 0, 1, /*epoch=*/1), 3);
  fleet.Do({.kind = Kind::kLeave, .id = "s"});
  return fleet.seed();
}

// Publishers die, a copy stands in, and the next version ends that.
std::string StandIn() {
  Fleet fleet;
  fleet.Publish(fleet.Join(Role::kPublisher, 0, 2), 1);
  fleet.Publish(fleet.Join(Role::kPublisher, 1, 2), 1);
  const std::string copy = fleet.Join(Role::kCopy, 0, 1);
  fleet.Publish(copy, 1);
  for (uint64_t token : {1, 2}) {
    const std::string id = "w" + std::to_string(999 + token);
    fleet.Do({.kind = Kind::kDetach, .id = id, .token = token});
  }
  fleet.Lease(fleet.Join(Role::kReceiver, 0, 1));
  fleet.Publish(fleet.Join(Role::kPublisher, 0, 2), 2);
  fleet.Publish(fleet.Join(Role::kPublisher, 1, 2), 2);
  fleet.Do({.kind = Kind::kRetire, .id = copy});
  return fleet.seed();
}

TEST(FuzzSeedsTest, AreWhatIsReadNow) {
  for (const auto& [name, seed] :
       {std::pair<std::string, std::string>{"refit", Refit()},
        {"takeover", Takeover()},
        {"stand_in", StandIn()}}) {
    const std::string path = std::string(WEFT_FUZZ_CORPUS) + "/" + name;
    if (std::getenv("WEFT_UPDATE_SEEDS") != nullptr) {
      std::ofstream(path, std::ios::binary) << seed;
    }
    std::ifstream file(path, std::ios::binary);
    const std::string kept((std::istreambuf_iterator<char>(file)), {});
    EXPECT_EQ(kept == seed, true)
        << path << " is of another format: WEFT_UPDATE_SEEDS=1 writes it anew";
  }
}

}  // namespace
}  // namespace weft::catalog
