// The sources that ModelExpress workers have published: who holds what, how to
// reach them, and whether they live.
#ifndef WEFT_CATALOG_MODELEXPRESS_P2P_SOURCES_INTERNAL_H_
#define WEFT_CATALOG_MODELEXPRESS_P2P_SOURCES_INTERNAL_H_

#include <cstdint>
#include <map>
#include <string>
#include <tuple>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "modelexpress_p2p.pb.h"
#include "weft/catalog/modelexpress/due_times_internal.h"
#include "weft/catalog/modelexpress/limits_internal.h"

namespace weft::catalog {

namespace mx = ::model_express::p2p;

// Not thread-safe. Times are milliseconds of one clock that never goes back;
// every method first does what has fallen due by `now_ms`. A rank that says
// nothing for kStaleAfterMs is STALE, a STALE one is forgotten kForgetAfterMs
// later, one of no known status kForgetAfterMs after its publication. What a
// client says about time is not believed.
class ModelExpressSources {
 public:
  static constexpr int64_t kStaleAfterMs = 90'000;
  static constexpr int64_t kForgetAfterMs = 3'600'000;

  explicit ModelExpressSources(const ModelExpressLimits& limits)
      : limits_(limits) {}

  // Replaces what this rank of the worker has published before. Returns the
  // source's id. kInvalidArgument, kResourceExhausted.
  absl::StatusOr<std::string> Publish(const mx::PublishMetadataRequest& request,
                                      int64_t now_ms);
  // Newest first; the limit is applied to what passed every filter.
  // kResourceExhausted if the rows would not fit into one reply.
  absl::StatusOr<mx::ListSourcesResponse> List(
      const mx::ListSourcesRequest& request, int64_t now_ms);
  // The lowest rank under that worker id; `found` is false if there is none.
  mx::GetMetadataResponse Get(const mx::GetMetadataRequest& request,
                              int64_t now_ms);
  // kNotFound for a rank that is not there, kInvalidArgument.
  absl::Status UpdateStatus(const mx::UpdateStatusRequest& request,
                            int64_t now_ms);

  int64_t count() const { return static_cast<int64_t>(records_.size()); }
  // What they take, as bytes of the wire.
  int64_t held_bytes() const { return held_bytes_; }

 private:
  // Source, worker, rank.
  using Key = std::tuple<std::string, std::string, uint32_t>;
  struct Record {
    mx::SourceStatus status = mx::SOURCE_STATUS_UNKNOWN;
    mx::SourceInstanceRef row;  // as listed
    std::string worker;         // WorkerMetadata, serialised
    std::string identity;       // SourceIdentity, serialised
  };

  void DoWhatIsDue(int64_t now_ms);
  void SetStatus(const Key& key, Record& record, mx::SourceStatus status,
                 int64_t now_ms);
  void Forget(const Key& key);
  static int64_t BytesOf(const Record& record);

  const ModelExpressLimits limits_;
  std::map<Key, Record> records_;
  DueTimes<Key> due_;
  int64_t held_bytes_ = 0;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_MODELEXPRESS_P2P_SOURCES_INTERNAL_H_
