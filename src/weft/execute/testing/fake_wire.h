// A wire for tests: operations are carried out when they are polled, a few at
// a time and in random order, so that memory that is reused too early shows up
// as wrong bytes. It can die, go silent, and refuse.
#ifndef WEFT_EXECUTE_TESTING_FAKE_WIRE_H_
#define WEFT_EXECUTE_TESTING_FAKE_WIRE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/transport/transport.h"

namespace weft::execute::testing {

class FakeRegion : public transport::Region {
 public:
  explicit FakeRegion(absl::Span<std::byte> memory) : memory_(memory) {}
  absl::Span<std::byte> memory() const override { return memory_; }
  const std::string& key() const override { return key_; }

 private:
  absl::Span<std::byte> memory_;
  std::string key_ = "fake";
};

class FakeRemoteRegion : public transport::RemoteRegion {
 public:
  FakeRemoteRegion(absl::Span<std::byte> memory, bool mapped)
      : memory_(memory), mapped_(mapped) {}
  int64_t size_bytes() const override {
    return static_cast<int64_t>(memory_.size());
  }
  std::byte* mapped() const override {
    return mapped_ ? memory_.data() : nullptr;
  }
  absl::Span<std::byte> memory() const { return memory_; }

 private:
  absl::Span<std::byte> memory_;
  bool mapped_;
};

struct FakeFaults {
  // The operation with this number (from 0) and all after it fail; -1 = none.
  int64_t die_at_op = -1;
  // From this operation on nothing completes any more.
  int64_t silent_at_op = -1;
  bool refuse_to_post = false;  // at die_at_op: the call fails, no completion
  bool dead = false;            // Health
  bool dead_at_flush = false;
};

class FakePeer : public transport::Peer {
 public:
  FakePeer(std::string label, uint64_t seed)
      : label_(std::move(label)), random_(seed) {}

  const std::string& label() const override { return label_; }
  absl::StatusOr<std::unique_ptr<transport::RemoteRegion>> Import(
      std::string_view) override {
    return absl::UnimplementedError("fake peers are given their regions");
  }
  absl::Status Get(const transport::RemoteRegion& remote,
                   int64_t remote_offset_bytes, absl::Span<std::byte> local,
                   const transport::Region* region,
                   transport::OpTag tag) override {
    std::byte* const from =
        Range(remote, remote_offset_bytes, static_cast<int64_t>(local.size()),
              local, region);
    return Post(
        tag, [from, local] { std::memcpy(local.data(), from, local.size()); });
  }
  absl::Status Put(const transport::RemoteRegion& remote,
                   int64_t remote_offset_bytes,
                   absl::Span<const std::byte> local,
                   const transport::Region* region,
                   transport::OpTag tag) override {
    std::byte* const to =
        Range(remote, remote_offset_bytes, static_cast<int64_t>(local.size()),
              local, region);
    return Post(tag,
                [to, local] { std::memcpy(to, local.data(), local.size()); });
  }
  absl::Status Gather(const transport::RemoteRegion& remote,
                      const transport::StridedPieces& pieces,
                      absl::Span<std::byte> local,
                      const transport::Region* region,
                      transport::OpTag tag) override {
    ++num_gathers;
    std::vector<int64_t> offsets = {pieces.offset_bytes};
    for (const transport::StridedPieces::Mode& mode : pieces.modes) {
      std::vector<int64_t> next;
      for (const int64_t offset : offsets) {
        for (int64_t i = 0; i < mode.extent; ++i) {
          next.push_back(offset + i * mode.stride_bytes);
        }
      }
      offsets = std::move(next);
    }
    const auto packed =
        static_cast<int64_t>(offsets.size()) * pieces.piece_bytes;
    if (packed != static_cast<int64_t>(local.size())) {
      Complain("gather into a span of another size");
      return absl::InvalidArgumentError("gather size");
    }
    std::byte* const base = Range(
        remote, 0,
        *std::max_element(offsets.begin(), offsets.end()) + pieces.piece_bytes,
        local, region);
    return Post(tag, [base, offsets, local, bytes = pieces.piece_bytes] {
      std::byte* to = local.data();
      for (const int64_t offset : offsets) {
        std::memcpy(to, base + offset, static_cast<size_t>(bytes));
        to += bytes;
      }
    });
  }

  int Poll(std::vector<transport::Completion>& completions) override {
    int appended = 0;
    const auto most = std::uniform_int_distribution<int>(0, 6)(random_);
    while (appended < most && !ops_.empty()) {
      const size_t pick = random_() % ops_.size();
      std::swap(ops_[pick], ops_.back());
      Op op = std::move(ops_.back());
      ops_.pop_back();
      if (faults.silent_at_op >= 0 && op.number >= faults.silent_at_op) {
        lost_.push_back(std::move(op));
        continue;
      }
      ++appended;
      const bool dies = faults.die_at_op >= 0 && op.number >= faults.die_at_op;
      if (dies) {
        completions.push_back({op.tag, Dead()});
        continue;
      }
      op.action();
      completions.push_back({op.tag, absl::OkStatus()});
    }
    return appended;
  }
  int64_t in_flight() const override {
    return static_cast<int64_t>(ops_.size() + lost_.size());
  }
  absl::Status Flush(base::Deadline) override {
    ++num_flushes;
    if (in_flight() > 0) Complain("flush with operations in flight");
    return faults.dead || faults.dead_at_flush ? Dead() : absl::OkStatus();
  }
  absl::Status Health() override {
    return faults.dead ? Dead() : absl::OkStatus();
  }

  FakeFaults faults;
  int64_t num_ops = 0;
  int64_t num_gathers = 0;
  int64_t num_flushes = 0;
  int64_t max_in_flight = 0;
  std::string complaint;  // the first wrong use

 private:
  struct Op {
    int64_t number = 0;
    transport::OpTag tag = 0;
    std::function<void()> action;
  };

  absl::Status Dead() const {
    return absl::UnavailableError(absl::StrCat(label_, " died"));
  }
  void Complain(const std::string& text) {
    if (complaint.empty()) complaint = text;
  }
  std::byte* Range(const transport::RemoteRegion& remote,
                   int64_t remote_offset_bytes, int64_t bytes,
                   absl::Span<const std::byte> local,
                   const transport::Region* region) {
    const auto memory = static_cast<const FakeRemoteRegion&>(remote).memory();
    if (remote_offset_bytes < 0 || bytes <= 0 ||
        remote_offset_bytes + bytes > static_cast<int64_t>(memory.size())) {
      Complain(absl::StrCat("operation on bytes ", remote_offset_bytes, " + ",
                            bytes, " of ", memory.size()));
    }
    if (region != nullptr &&
        (local.data() < region->memory().data() ||
         local.data() + local.size() >
             region->memory().data() + region->memory().size())) {
      Complain("local memory outside its registration");
    }
    return memory.data() + remote_offset_bytes;
  }
  absl::Status Post(transport::OpTag tag, std::function<void()> action) {
    const int64_t number = num_ops++;
    if (faults.refuse_to_post && number >= faults.die_at_op) return Dead();
    ops_.push_back({number, tag, std::move(action)});
    max_in_flight = std::max(max_in_flight, in_flight());
    if (!complaint.empty()) return absl::InternalError(complaint);
    return absl::OkStatus();
  }

  std::string label_;
  std::mt19937_64 random_;
  std::vector<Op> ops_;
  std::vector<Op> lost_;
};

class FakeTransport : public transport::Transport {
 public:
  std::string_view name() const override { return "fake"; }
  std::string description() const override { return "fake"; }
  transport::Capabilities capabilities() const override { return known; }
  const std::string& address() const override { return address_; }
  absl::StatusOr<std::unique_ptr<transport::Region>> Register(
      absl::Span<std::byte> memory, const memory::Buffer*) override {
    ++num_registrations;
    return std::make_unique<FakeRegion>(memory);
  }
  absl::StatusOr<std::unique_ptr<transport::Peer>> Connect(
      std::string_view, std::string, base::Deadline) override {
    return absl::UnimplementedError("fake peers are made by the test");
  }

  transport::Capabilities known = {
      .mapped = true, .posted = true, .gather = true, .foreign_memory = true};
  int num_registrations = 0;

 private:
  std::string address_ = "fake";
};

}  // namespace weft::execute::testing

#endif  // WEFT_EXECUTE_TESTING_FAKE_WIRE_H_
