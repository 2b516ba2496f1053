// One connected source rank: its peer, imported regions and control area.
#ifndef WEFT_SESSION_SOURCE_LINK_INTERNAL_H_
#define WEFT_SESSION_SOURCE_LINK_INTERNAL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/base/deadline.h"
#include "weft/catalog/store.h"
#include "weft/execute/executor.h"
#include "weft/manifest/binding.h"
#include "weft/memory/buffer.h"
#include "weft/memory/device.h"
#include "weft/session/receiver.h"
#include "weft/transport/transport.h"

namespace weft::session {

// Bytes of a source's control buffer, and where they go.
struct ControlRead {
  int64_t offset_bytes = 0;
  absl::Span<std::byte> local = {};
};

class SourceLink {
 public:
  // Connects through the first of the options' transports that has keys for
  // every buffer of the source. kUnavailable that lists why each failed.
  // `name`: of the source, for errors.
  static absl::StatusOr<std::unique_ptr<SourceLink>> Open(
      const catalog::SourceRecord& source, const std::string& name,
      const ReceiverOptions& options, base::Deadline deadline);

  int64_t rank() const { return rank_; }
  uint64_t generation() const { return generation_; }
  const std::string& name() const { return label_; }
  const std::string& transport_name() const { return transport_name_; }
  bool mapped() const;
  // Empty, or why its bytes do not take the fastest way (PeerReport).
  std::string detour() const;
  transport::Peer& peer() { return *peer_; }
  transport::Transport& transport() { return *transport_; }
  const manifest::Binding& binding() const { return binding_; }
  execute::RemoteRank RemoteRank() const;

  // Whether the host follows the control buffer through a mapping.
  bool control_mapped() const { return control().mapped() != nullptr; }
  // Through the mapping.
  absl::StatusOr<uint64_t> LoadEpochWord();
  // Begins to read all of `reads`, which must live until PollReads says that
  // they have ended. One caller at a time, while nothing else is under way.
  absl::Status StartReads(absl::Span<const ControlRead> reads);
  // Goes on with them, without blocking: whether they have all ended. On an
  // error they have ended too, as far as they ever will.
  absl::StatusOr<bool> PollReads();

  // Bytes per second of a read of this source's memory in large pieces into
  // memory of `device`, measured now; 0 if it is mapped or holds too little to
  // measure. `driver` is that of a GPU.
  absl::StatusOr<double> MeasureReadRate(memory::DeviceDriver* driver,
                                         int device, base::Deadline deadline);

 private:
  SourceLink() = default;
  absl::Status ImportAll();
  const transport::RemoteRegion& control() const {
    return *regions_[binding_.control_buffer];
  }
  // As many of the reads as may be under way at once.
  absl::Status PostReads();
  // An operation that a deadline cut short ends at some time: its completion
  // must not be taken for that of another one.
  absl::Status CheckIdle() const;
  // Reads all of `local`, in pieces of at most `piece_bytes`.
  absl::Status ReadAll(absl::Span<std::byte> local, int64_t piece_bytes,
                       base::Deadline deadline);

  int64_t rank_ = 0;
  uint64_t generation_ = 0;
  std::string label_;
  std::string transport_name_;
  std::string refused_;  // the transports before it, and why
  std::shared_ptr<transport::Transport> transport_;
  manifest::Binding binding_;
  // Where reads land that the link makes by itself. Before peer_, so that they
  // outlive it: one that a deadline cut short may still write.
  std::vector<std::byte> landing_;
  std::unique_ptr<memory::Buffer> host_probe_;
  std::unique_ptr<memory::DeviceBuffer> gpu_probe_;
  std::unique_ptr<transport::Peer> peer_;
  // The reads that go on: of `reads_`, how many were posted and have ended, and
  // the first failure, after which no more are posted.
  absl::Span<const ControlRead> reads_;
  size_t posted_ = 0;
  size_t ended_ = 0;
  size_t posted_bytes_ = 0;
  absl::Status read_failure_;
  // After peer_: regions must not outlive their peer.
  std::vector<std::unique_ptr<transport::RemoteRegion>> regions_;
};

}  // namespace weft::session

#endif  // WEFT_SESSION_SOURCE_LINK_INTERNAL_H_
