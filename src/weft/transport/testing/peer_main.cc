// A peer in a process of its own, for tests.
//
//   weft_transport_test_peer shm|ucx shared|host|malloc BYTES SEED
//   weft_transport_test_peer_nixl nixl shared|host|malloc BYTES SEED
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
#include <cstdint>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "weft/memory/buffer.h"
#include "weft/transport/testing/pattern.h"
#ifdef WEFT_TEST_PEER_NIXL
#include "weft/transport/nixl/nixl_transport.h"
#else
#include "weft/transport/shm/shm_transport.h"
#include "weft/transport/ucx/ucx_transport.h"
#endif

namespace weft::transport {
namespace {

absl::StatusOr<std::unique_ptr<Transport>> Make(const std::string& name) {
#ifdef WEFT_TEST_PEER_NIXL
  if (name == "nixl") return MakeNixlTransport({});
#else
  if (name == "shm") return MakeShmTransport();
  if (name == "ucx") return MakeUcxTransport();
#endif
  return absl::InvalidArgumentError("no transport " + name);
}

int Fail(const absl::Status& status) {
  std::cerr << status << std::endl;
  return 1;
}

// Keeps a window of Gets, Gathers and Puts in flight until it is killed.
void ReadForEver(Transport& transport, const std::string& address,
                 const std::string& key) {
  auto peer = transport.Connect(address, "owner", base::Deadline::Infinite());
  if (!peer.ok()) return;
  auto remote = (*peer)->Import(key);
  if (!remote.ok()) return;
  const int64_t bytes = (*remote)->size_bytes();
  std::vector<std::byte> got(static_cast<size_t>(bytes));
  std::vector<std::byte> gathered(static_cast<size_t>(bytes / 2));
  const std::vector<std::byte> put(64);
  const StridedPieces pieces{.modes = {{bytes / 512, 512}}, .piece_bytes = 256};
  std::vector<Completion> completions;
  for (OpTag tag = 0; (*peer)->Health().ok();) {
    while ((*peer)->in_flight() < 24) {
      absl::Status status =
          (*peer)->Get(**remote, 0, absl::MakeSpan(got), nullptr, ++tag);
      status.Update(
          (*peer)->Gather(**remote, pieces,
                          absl::MakeSpan(gathered).first(
                              static_cast<size_t>(pieces.packed_bytes())),
                          nullptr, ++tag));
      status.Update((*peer)->Put(**remote, 0, put, nullptr, ++tag));
      if (!status.ok()) return;
    }
    const bool was_silent = completions.empty();
    (*peer)->Poll(completions);
    if (was_silent && !completions.empty()) {
      std::cout << "reading" << std::endl;
    }
  }
}

void Answer(Transport& transport, absl::Span<std::byte> memory,
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
      ReadForEver(transport, absl::HexStringToBytes(address),
                  absl::HexStringToBytes(key));
    } else if (command == "check") {
      uint64_t seed = 0;
      size_t offset = 0;
      size_t bytes = 0;
      words >> seed >> offset >> bytes;
      const int64_t place = FindMismatch(memory.subspan(offset, bytes), seed);
      std::cout << (place < 0 ? "same" : std::to_string(place)) << std::endl;
    }
  }
}

int Run(const std::string& transport_name, const std::string& memory_kind,
        int64_t bytes, uint64_t seed) {
  absl::StatusOr<std::unique_ptr<Transport>> transport = Make(transport_name);
  if (!transport.ok()) return Fail(transport.status());
  absl::StatusOr<std::unique_ptr<memory::Buffer>> buffer =
      memory::Buffer::Allocate(memory_kind == "shared"
                                   ? memory::MemoryKind::kShared
                                   : memory::MemoryKind::kHost,
                               bytes);
  if (!buffer.ok()) return Fail(buffer.status());
  std::vector<std::byte> foreign;
  absl::Span<std::byte> memory = (*buffer)->span();
  const bool is_foreign = memory_kind == "malloc";
  if (is_foreign) {
    foreign.resize(static_cast<size_t>(bytes));
    memory = absl::MakeSpan(foreign);
  }
  FillPattern(memory, seed);
  absl::StatusOr<std::unique_ptr<Region>> region =
      (*transport)->Register(memory, is_foreign ? nullptr : buffer->get());
  if (!region.ok()) return Fail(region.status());
  const auto hex = [](const std::string& text) {
    return absl::BytesToHexString(text);
  };
  std::cout << hex((*transport)->address()) << " " << hex((*region)->key())
            << std::endl;
  Answer(**transport, memory, *region);
  return 0;
}

}  // namespace
}  // namespace weft::transport

int main(int argc, char** argv) {
  int64_t bytes = 0;
  uint64_t seed = 0;
  if (argc != 5 || !absl::SimpleAtoi(argv[3], &bytes) ||
      !absl::SimpleAtoi(argv[4], &seed)) {
    std::cerr << "usage: weft_transport_test_peer NAME shared|host|malloc "
                 "BYTES SEED\n";
    return 2;
  }
  return weft::transport::Run(argv[1], argv[2], bytes, seed);
}
