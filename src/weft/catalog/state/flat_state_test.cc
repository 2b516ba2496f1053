// 10,000 versions, with trainers and engines that come and go, leave the state
// as large as it was: counted in the bytes of its encoding.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "weft/catalog/state/catalog_state.h"
#include "weft/catalog/state/command.h"
#include "weft/catalog/state/replica.h"

namespace weft::catalog {
namespace {

using Kind = Command::Kind;

constexpr int kVersions = 10'000;
// Everything that is kept for a while is full by then: 4096 revoked leases, and
// 512 MiB of placements
// that nobody uses are the last, one of a MiB each ten versions.
constexpr int kWarm = 7'000;

WorkerInfo Info(Role role, int life) {
  WorkerInfo info;
  info.model = "model";
  info.role = role;
  info.layout_spec = "hf";
  info.host_id = "host";
  if (role == Role::kPublisher) {
    info.run_id = "run";
    info.epoch = static_cast<uint64_t>(life);
    info.placement_digest_hex =
        absl::StrCat(absl::Hex(life, absl::kZeroPad16), std::string(48, 'a'));
    info.labels = {{"revision", absl::StrCat(life)}};
  }
  return info;
}

// A log as servers on a Redis write it: each version is published, leased,
// committed or left to be revoked, and withdrawn; every tenth one the trainer
// and the engine are restarted.
class Story {
 public:
  Story() : replica_(StateOptions{.first_number = 1'000'000'000}) {
    Command join;
    join.kind = Kind::kJoin;
    join.number = 1'000'000'000;
    Do(join);
  }

  std::size_t bytes() const { return replica_.Encode().size(); }

  void Next(int version) {
    if (version % 10 == 0) Restart(version / 10);
    Command publish = Of(Kind::kPublish, publisher_);
    publish.number = static_cast<uint64_t>(version) + 1;
    ASSERT_TRUE(Do(publish).status.ok());
    const CommandResult leased = Do(Of(Kind::kAcquireNewest, receiver_));
    ASSERT_TRUE(leased.status.ok()) << leased.status;
    if (version % 3 == 0) {
      Command release = Of(Kind::kRelease, leased.lease.lease_id);
      release.flag = true;
      ASSERT_TRUE(Do(release).status.ok());
    }
    const CommandResult retired = Do(Of(Kind::kRetire, publisher_));
    ASSERT_TRUE(retired.status.ok()) << retired.status;
    if (retired.key) {
      Command revoke;
      revoke.kind = Kind::kRevoke;
      revoke.text = retired.key->model;
      revoke.version = retired.key->version;
      Do(revoke);
    }
  }

 private:
  static Command Of(Kind kind, const std::string& id) {
    Command command;
    command.kind = kind;
    command.id = id;
    return command;
  }

  CommandResult Do(Command command) {
    command.server = "server";
    command.sequence = ++sequence_;
    command.now_ns = now_ns_ += 1'000'000;
    command.token = 1;
    const Replica::Outcome outcome = replica_.Apply(EncodeCommand(command));
    EXPECT_TRUE(outcome.result.has_value());
    replica_.state().TakeChanges();
    replica_.state().TakeNotes();
    return outcome.result.value_or(CommandResult{});
  }

  std::string Join(const WorkerInfo& info) {
    Command register_it;
    register_it.kind = Kind::kRegister;
    register_it.info = info;
    register_it.text = std::string(100, 'b');
    const CommandResult made = Do(register_it);
    EXPECT_TRUE(made.status.ok()) << made.status;
    EXPECT_TRUE(Do(Of(Kind::kAttach, made.registration.worker_id)).status.ok());
    return made.registration.worker_id;
  }

  void Restart(int life) {
    if (!publisher_.empty()) Do(Of(Kind::kDetach, publisher_));
    if (!receiver_.empty()) Do(Of(Kind::kDetach, receiver_));
    const WorkerInfo info = Info(Role::kPublisher, life);
    Command put = Of(Kind::kPutPlacement, info.placement_digest_hex);
    put.text = absl::StrCat("place", life);
    put.number = 1 << 20;
    Do(put);
    publisher_ = Join(info);
    receiver_ = Join(Info(Role::kReceiver, life));
  }

  Replica replica_;
  uint64_t sequence_ = 0;
  int64_t now_ns_ = 0;
  std::string publisher_;
  std::string receiver_;
};

TEST(FlatStateTest, TenThousandVersionsLeaveItAsLargeAsItWas) {
  Story story;
  std::size_t smallest = 0;
  std::size_t largest = 0;
  for (int version = 0; version < kVersions; ++version) {
    story.Next(version);
    if (HasFatalFailure()) return;
    if (version < kWarm || version % 100 != 99) continue;
    const std::size_t bytes = story.bytes();
    smallest = smallest == 0 ? bytes : std::min(smallest, bytes);
    largest = std::max(largest, bytes);
  }
  RecordProperty("bytes", static_cast<int>(largest));
  // Numbers get longer, nothing else.
  EXPECT_LT(largest - smallest, largest / 100)
      << smallest << " to " << largest << " bytes";
  EXPECT_LT(largest, std::size_t{2} << 20);
}

}  // namespace
}  // namespace weft::catalog
