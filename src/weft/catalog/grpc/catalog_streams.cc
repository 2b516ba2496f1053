#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "weft/base/deadline.h"
#include "weft/catalog/grpc/catalog_streams_internal.h"
#include "weft/catalog/grpc/messages_internal.h"

namespace weft::catalog {
namespace {

// Both reactors delete themselves in OnDone, which gRPC calls last.

class AttachStream : public grpc::ServerWriteReactor<v1::AttachResponse> {
 public:
  AttachStream(CatalogService& service, std::string worker_id,
               std::shared_ptr<CatalogService::Attached> attached)
      : service_(service),
        worker_id_(std::move(worker_id)),
        attached_(std::move(attached)) {
    StartWrite(&response_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) FinishOnce();
  }
  void OnCancel() override { FinishOnce(); }
  void OnDone() override {
    service_.DetachWorker(worker_id_, /*in_order=*/false, attached_.get());
    delete this;
  }

 private:
  void FinishOnce() {
    std::call_once(finished_, [this] { Finish(grpc::Status::CANCELLED); });
  }

  CatalogService& service_;
  const std::string worker_id_;
  const std::shared_ptr<CatalogService::Attached> attached_;
  const v1::AttachResponse response_;
  std::once_flag finished_;
};

template <typename Response>
class RefusedStream : public grpc::ServerWriteReactor<Response> {
 public:
  explicit RefusedStream(const absl::Status& status) {
    this->Finish(ToWireStatus(status));
  }
  void OnDone() override { delete this; }
};

class WatchStream : public grpc::ServerWriteReactor<v1::WatchVersionsResponse> {
 public:
  WatchStream(std::unique_ptr<VersionWatch> watch, std::shared_ptr<void> kept)
      : kept_(std::move(kept)), watch_(std::move(watch)) {
    watch_->SetWake([this] { SendNews(); });
  }

  void OnWriteDone(bool ok) override {
    {
      const std::lock_guard lock(mutex_);
      writing_ = false;
      if (!ok) FinishOnce(grpc::Status::CANCELLED);
    }
    SendNews();
  }
  void OnCancel() override {
    const std::lock_guard lock(mutex_);
    FinishOnce(grpc::Status::CANCELLED);
  }
  // The watch's destructor waits for a wake that is under way.
  void OnDone() override { delete this; }

 private:
  void SendNews();
  void FinishOnce(const grpc::Status& status) {
    if (std::exchange(finished_, true)) return;
    Finish(status);
  }

  // Before watch_, whose destructor may wait for a wake that uses them.
  std::mutex mutex_;
  v1::WatchVersionsResponse response_;
  bool sent_first_ = false;
  bool writing_ = false;
  bool finished_ = false;
  const std::shared_ptr<void> kept_;
  const std::unique_ptr<VersionWatch> watch_;
};

void WatchStream::SendNews() {
  // Never waits: takes what is there.
  const auto passed = base::Deadline::At(base::Deadline::Clock::time_point());
  const std::lock_guard lock(mutex_);
  if (writing_ || finished_) return;
  response_.clear_records();
  absl::StatusOr<VersionRecord> record = watch_->Next(passed);
  for (; record.ok(); record = watch_->Next(passed)) {
    ToWire(*record, *response_.add_records());
  }
  const bool ended = !absl::IsDeadlineExceeded(record.status());
  if (response_.records_size() > 0 || !sent_first_) {
    sent_first_ = true;
    writing_ = true;
    StartWrite(&response_);
  } else if (ended) {
    FinishOnce(ToWireStatus(record.status()));
  }
}

}  // namespace

grpc::ServerWriteReactor<v1::AttachResponse>* StartAttachStream(
    CatalogService& service, const std::string& worker_id,
    absl::StatusOr<std::shared_ptr<CatalogService::Attached>> attached) {
  if (!attached.ok()) {
    return new RefusedStream<v1::AttachResponse>(attached.status());
  }
  return new AttachStream(service, worker_id, *std::move(attached));
}

grpc::ServerWriteReactor<v1::WatchVersionsResponse>* StartWatchStream(
    absl::StatusOr<std::unique_ptr<VersionWatch>> watch,
    std::shared_ptr<void> kept) {
  if (!watch.ok()) {
    return new RefusedStream<v1::WatchVersionsResponse>(watch.status());
  }
  return new WatchStream(*std::move(watch), std::move(kept));
}

}  // namespace weft::catalog
