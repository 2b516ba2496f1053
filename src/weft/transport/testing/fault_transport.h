// A Transport that misbehaves on demand: a decorator over any other.
//
// Bytes must pass through the wrapper to be spoiled, so it presents itself as
// posted-only: no region is mapped, capabilities().mapped is false. Regions are
// registered, and local registrations used, through the wrapped transport.
#ifndef WEFT_TRANSPORT_TESTING_FAULT_TRANSPORT_H_
#define WEFT_TRANSPORT_TESTING_FAULT_TRANSPORT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "weft/transport/transport.h"

namespace weft::transport {

// What goes wrong, once each.
struct Fault {
  enum class Kind {
    // One byte of what a Get or Gather brought is inverted; success is
    // reported.
    kFlipByte,
    // Only the first `bytes` of an operation are moved; success is reported.
    kSilentShort,
    // Only the first `bytes` are moved, then the operation fails
    // (kUnavailable); the peer lives on.
    kPartial,
    // The operation is posted and never completes.
    kDrop,
    // The completion is held back until `operations` later ones were
    // delivered, or nothing else is in flight.
    kDelay,
    // The peer is dead once `bytes` have been posted to it: what is in flight
    // then fails, and all that follows.
    kPeerDeath,
    // The key is damaged on its way: one byte is inverted before Import.
    kCorruptKey,
  };
  Kind kind = Kind::kFlipByte;
  // Only peers whose label contains this; empty means any.
  std::string peer_label = {};
  // Strikes the operation (kCorruptKey: the Import) of this number, from 0,
  // among those that the fault could strike. Not for kPeerDeath.
  int64_t nth = 0;
  int64_t bytes = 0;       // kSilentShort, kPartial, kPeerDeath
  int64_t operations = 1;  // kDelay
  // kFlipByte, kCorruptKey: which byte, modulo the size.
  int64_t byte_index = 0;
};

// The faults of one or several FaultTransports, and which have struck.
// Thread-safe.
class FaultScript {
 public:
  void Add(Fault fault);
  // How many of the faults added so far have struck.
  int64_t struck() const;

  // For the transport. `is_put`: kFlipByte spares Puts. The fault that strikes
  // this operation, or nullptr; valid as long as the script.
  const Fault* StrikeOperation(const std::string& label, bool is_put);
  const Fault* StrikeImport(const std::string& label);
  // `posted_bytes` to this peer so far. True once it must be dead.
  bool StrikePeer(const std::string& label, int64_t posted_bytes);

 private:
  struct Entry {
    Fault fault;
    int64_t seen = 0;  // operations that it could have struck
    bool struck = false;
  };
  const Fault* Strike(const std::string& label, bool import, bool is_put);

  mutable absl::Mutex mutex_;
  std::vector<std::unique_ptr<Entry>> entries_ ABSL_GUARDED_BY(mutex_);
};

// `wrapped` needs the posted capability.
std::unique_ptr<Transport> MakeFaultTransport(
    std::unique_ptr<Transport> wrapped, std::shared_ptr<FaultScript> script);

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_TESTING_FAULT_TRANSPORT_H_
