// A peer in a process of its own, for tests.
//
//   weft_transport_test_peer shm|ucx shared|host|malloc|fake|cuda BYTES SEED
//   weft_transport_test_peer_nixl nixl ... (the same)
//
// "cuda" is memory of the first GPU, "fake" that of a fake one.
//
// Registers BYTES of memory filled with the pattern of SEED, prints its
// address and key in hexadecimal on one line, then answers commands on
// standard input, one a line, until it ends:
//
//   check SEED OFFSET BYTES   is the pattern of SEED (from index 0) there?
//                             prints "same" or the place of the first other
//   free                      deregisters the region; prints "freed"
//   read ADDRESS KEY          connects to another peer (hexadecimal), reads and
//                             writes its region for ever; prints "reading" once
//                             the first transfers have completed
#include <algorithm>
#include <cstdint>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "weft/base/status.h"
#include "weft/memory/buffer.h"
#include "weft/memory/cuda/cuda_driver.h"
#include "weft/memory/testing/fake_device.h"
#include "weft/transport/device_copies.h"
#include "weft/transport/testing/pattern.h"
#ifdef WEFT_TEST_PEER_NIXL
#include "weft/transport/nixl/nixl_transport.h"
#else
#include "weft/transport/shm/shm_transport.h"
#include "weft/transport/ucx/ucx_transport.h"
#endif

namespace weft::transport {
namespace {

// Null for memory of the host.
absl::StatusOr<memory::DeviceDriver*> DriverOf(const std::string& kind) {
  if (kind == "cuda") return memory::CudaDriver();
  static auto* const fake = new memory::FakeDeviceDriver(2);
  return kind == "fake" ? fake : nullptr;
}

absl::StatusOr<std::unique_ptr<Transport>> Make(const std::string& name,
                                                const std::string& kind) {
  WEFT_ASSIGN_OR_RETURN(memory::DeviceDriver* const driver, DriverOf(kind));
#ifdef WEFT_TEST_PEER_NIXL
  if (name == "nixl") {
    return MakeNixlTransport(
        {.driver = driver,
         .device = driver == nullptr ? memory::kHostMemory : 0,
         .fake_gpus = kind == "fake"});
  }
#else
  if (name == "shm") return MakeShmTransport();
  if (name == "ucx") {
    return MakeUcxTransport(
        {.driver = driver,
         .device = driver == nullptr ? memory::kHostMemory : 0});
  }
#endif
  return absl::InvalidArgumentError("no transport " + name);
}

int Fail(const absl::Status& status) {
  std::cerr << status << std::endl;
  return 1;
}

// Memory of the kind that the command line names.
class Memory {
 public:
  static absl::StatusOr<std::unique_ptr<Memory>> Make(const std::string& kind,
                                                      int64_t bytes) {
    auto made = std::make_unique<Memory>();
    WEFT_ASSIGN_OR_RETURN(made->driver_, DriverOf(kind));
    if (made->driver_ != nullptr) {
      WEFT_ASSIGN_OR_RETURN(made->device_, memory::DeviceBuffer::Allocate(
                                               *made->driver_, 0, bytes));
      made->span_ = {made->device_->data(), static_cast<size_t>(bytes)};
      return made;
    }
    if (kind == "malloc") {
      made->foreign_.resize(static_cast<size_t>(bytes));
      made->span_ = absl::MakeSpan(made->foreign_);
      return made;
    }
    WEFT_ASSIGN_OR_RETURN(
        made->buffer_,
        memory::Buffer::Allocate(kind == "shared" ? memory::MemoryKind::kShared
                                                  : memory::MemoryKind::kHost,
                                 bytes));
    made->span_ = made->buffer_->span();
    return made;
  }

  absl::Span<std::byte> span() const { return span_; }
  const memory::Buffer* buffer() const { return buffer_.get(); }

  absl::Status Fill(uint64_t seed) {
    std::vector<std::byte> pattern(span_.size());
    FillPattern(absl::MakeSpan(pattern), seed);
    return Copy(span_.data(), pattern.data(), pattern.size());
  }
  absl::StatusOr<int64_t> Mismatch(uint64_t seed, size_t offset, size_t bytes) {
    std::vector<std::byte> there(bytes);
    WEFT_RETURN_IF_ERROR(Copy(there.data(), span_.data() + offset, bytes));
    return FindMismatch(there, seed);
  }

 private:
  absl::Status Copy(std::byte* to, const std::byte* from, size_t bytes) {
    if (driver_ != nullptr) {
      return DeviceCopier(driver_).Copy(0, to, from,
                                        static_cast<int64_t>(bytes));
    }
    std::copy_n(from, bytes, to);
    return absl::OkStatus();
  }

  memory::DeviceDriver* driver_ = nullptr;
  std::unique_ptr<memory::Buffer> buffer_;
  std::unique_ptr<memory::DeviceBuffer> device_;
  std::vector<std::byte> foreign_;
  absl::Span<std::byte> span_;
};

// Keeps a window of Gets, Gathers and Puts in flight until it is killed.
void ReadForEver(Transport& transport, const std::string& kind,
                 const std::string& address, const std::string& key) {
  auto peer = transport.Connect(address, "owner", base::Deadline::Infinite());
  if (!peer.ok()) return;
  auto remote = (*peer)->Import(key);
  if (!remote.ok()) return;
  const int64_t bytes = (*remote)->size_bytes();
  const auto got = Memory::Make(kind, bytes);
  const auto gathered = Memory::Make(kind, bytes / 2);
  const auto put = Memory::Make(kind, 64);
  if (!got.ok() || !gathered.ok() || !put.ok()) return;
  const StridedPieces pieces{.modes = {{bytes / 512, 512}}, .piece_bytes = 256};
  std::vector<Completion> completions;
  for (OpTag tag = 0; (*peer)->Health().ok();) {
    while ((*peer)->in_flight() < 24) {
      absl::Status status =
          (*peer)->Get(**remote, 0, (*got)->span(), nullptr, ++tag);
      status.Update((*peer)->Gather(
          **remote, pieces,
          (*gathered)->span().first(static_cast<size_t>(pieces.packed_bytes())),
          nullptr, ++tag));
      status.Update((*peer)->Put(**remote, 0, (*put)->span(), nullptr, ++tag));
      if (!status.ok()) return;
    }
    const bool was_silent = completions.empty();
    (*peer)->Poll(completions);
    if (was_silent && !completions.empty()) {
      std::cout << "reading" << std::endl;
    }
  }
}

void Answer(Transport& transport, const std::string& kind, Memory& memory,
            std::unique_ptr<Region>& region) {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string command;
    words >> command;
    if (command == "free") {
      region.reset();
      std::cout << "freed" << std::endl;
    } else if (command == "read") {
      std::string address;
      std::string key;
      words >> address >> key;
      ReadForEver(transport, kind, absl::HexStringToBytes(address),
                  absl::HexStringToBytes(key));
    } else if (command == "check") {
      uint64_t seed = 0;
      size_t offset = 0;
      size_t bytes = 0;
      words >> seed >> offset >> bytes;
      const auto place = memory.Mismatch(seed, offset, bytes);
      std::cout << (!place.ok()  ? std::string(place.status().message())
                    : *place < 0 ? "same"
                                 : std::to_string(*place))
                << std::endl;
    }
  }
}

int Run(const std::string& transport_name, const std::string& memory_kind,
        int64_t bytes, uint64_t seed) {
  absl::StatusOr<std::unique_ptr<Transport>> transport =
      Make(transport_name, memory_kind);
  if (!transport.ok()) return Fail(transport.status());
  const absl::StatusOr<std::unique_ptr<Memory>> memory =
      Memory::Make(memory_kind, bytes);
  if (!memory.ok()) return Fail(memory.status());
  const absl::Status filled = (*memory)->Fill(seed);
  if (!filled.ok()) return Fail(filled);
  absl::StatusOr<std::unique_ptr<Region>> region =
      (*transport)->Register((*memory)->span(), (*memory)->buffer());
  if (!region.ok()) return Fail(region.status());
  const auto hex = [](const std::string& text) {
    return absl::BytesToHexString(text);
  };
  std::cout << hex((*transport)->address()) << " " << hex((*region)->key())
            << std::endl;
  Answer(**transport, memory_kind, **memory, *region);
  return 0;
}

}  // namespace
}  // namespace weft::transport

int main(int argc, char** argv) {
  int64_t bytes = 0;
  uint64_t seed = 0;
  if (argc != 5 || !absl::SimpleAtoi(argv[3], &bytes) ||
      !absl::SimpleAtoi(argv[4], &seed)) {
    std::cerr << "usage: weft_transport_test_peer NAME "
                 "shared|host|malloc|fake|cuda BYTES SEED\n";
    return 2;
  }
  return weft::transport::Run(argv[1], argv[2], bytes, seed);
}
