#include <grpc/support/time.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "weft/base/status.h"
#include "weft/catalog/grpc/client_streams_internal.h"
#include "weft/catalog/version_queue.h"

namespace weft::catalog {
namespace {

constexpr std::chrono::seconds kAttachmentCallTime(5);

// One server stream. Each response goes to `on_response`, the end to `on_end`,
// both on the connection's thread of streams; on_end is called once, last.
// Destroying it cancels the stream and waits for its end.
template <typename Response>
class StreamReader final : public StreamThread::Stream {
 public:
  StreamReader(std::shared_ptr<Connection> connection, std::string doing,
               std::function<void(const Response&)> on_response,
               std::function<void(const absl::Status&)> on_end)
      : connection_(std::move(connection)),
        doing_(std::move(doing)),
        on_response_(std::move(on_response)),
        on_end_(std::move(on_end)) {}
  ~StreamReader() {
    if (!started_) return;
    const StreamThread::Attention attention(connection_->streams);
    context_.TryCancel();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
  }
  StreamReader(const StreamReader&) = delete;
  StreamReader& operator=(const StreamReader&) = delete;

  // OK when a response has come; else why none will.
  template <typename Request>
  absl::Status Open(std::unique_ptr<grpc::ClientAsyncReader<Response>> (
                        v1::Catalog::Stub::*method)(grpc::ClientContext*,
                                                    const Request&,
                                                    grpc::CompletionQueue*),
                    const Request& request, base::Deadline deadline) {
    const StreamThread::Attention attention(connection_->streams);
    started_ = true;
    connection_->AddToken(context_);
    stream_ = ((*connection_->stub).*method)(&context_, request,
                                             connection_->streams.queue());
    stream_->StartCall(tag());
    return AwaitFirst(deadline);
  }

  // OK while the stream is open, else its end.
  absl::Status state() {
    const std::lock_guard lock(mutex_);
    return end_;
  }

  void OnEvent(bool ok) override {
    if (step_ == Step::kFinish) return OnDone();
    if (step_ == Step::kRead && ok) {
      on_response_(response_);
      const std::lock_guard lock(mutex_);
      has_response_ = true;
      changed_.notify_all();
    }
    step_ = ok ? Step::kRead : Step::kFinish;
    if (ok) {
      stream_->Read(&response_, tag());
    } else {
      stream_->Finish(&status_, tag());
    }
  }

 private:
  // The operation that is under way.
  enum class Step { kStart, kRead, kFinish };

  void* tag() { return static_cast<StreamThread::Stream*>(this); }

  absl::Status AwaitFirst(base::Deadline deadline) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, deadline.Remaining(),
                      [this] { return has_response_ || done_; });
    if (has_response_) return absl::OkStatus();
    if (done_) return end_;
    return absl::DeadlineExceededError("deadline passed while " + doing_ +
                                       " at catalog " + connection_->address);
  }

  void OnDone() {
    // A server does not end a stream well: one that says OK has gone too.
    absl::Status end =
        status_.ok() ? NoCatalogAnswers(connection_->address)
                     : FromWireStatus(status_, doing_, connection_->address);
    on_end_(end);
    const std::lock_guard lock(mutex_);
    end_ = std::move(end);
    done_ = true;
    changed_.notify_all();
  }

  const std::shared_ptr<Connection> connection_;
  const std::string doing_;
  const std::function<void(const Response&)> on_response_;
  const std::function<void(const absl::Status&)> on_end_;
  grpc::ClientContext context_;
  bool started_ = false;
  // Of the thread of streams, from StartCall on.
  Step step_ = Step::kStart;
  std::unique_ptr<grpc::ClientAsyncReader<Response>> stream_;
  Response response_;
  grpc::Status status_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool has_response_ = false;
  bool done_ = false;
  absl::Status end_;
};

class GrpcAttachment : public Attachment {
 public:
  GrpcAttachment(std::shared_ptr<Connection> connection,
                 const v1::AttachRequest& request, std::function<void()> on_end)
      : connection_(std::move(connection)),
        request_(request),
        reader_(
            connection_, "attaching a worker", [](const auto&) {},
            [on_end = std::move(on_end)](const auto&) {
              if (on_end) on_end();
            }) {}

  ~GrpcAttachment() override {
    if (!attached_ || abandoned_ || !reader_.state().ok()) return;
    // So that the worker is dead when this returns, not soon after. If it
    // fails, the end of the stream does the same.
    v1::DetachRequest request;
    request.set_worker_id(request_.worker_id());
    request.set_in_order(in_order_);
    v1::DetachResponse response;
    connection_
        ->Call(&v1::Catalog::Stub::Detach, request, response,
               base::Deadline::After(kAttachmentCallTime), "detaching a worker")
        .IgnoreError();
  }

  absl::Status Open(base::Deadline deadline) {
    const absl::Status status = reader_.Open(
        &v1::Catalog::Stub::PrepareAsyncAttach, request_, deadline);
    attached_ = status.ok();
    return status;
  }

  void EndInOrder() override { in_order_ = true; }
  void Abandon() override { abandoned_ = true; }

  bool IsOver() override { return !reader_.state().ok(); }

  absl::Status Health() override {
    if (!reader_.state().ok()) return NoCatalogAnswers(connection_->address);
    v1::GetHealthRequest request;
    request.set_worker_id(request_.worker_id());
    v1::GetHealthResponse response;
    absl::Status status = connection_->Call(
        &v1::Catalog::Stub::GetHealth, request, response,
        base::Deadline::After(kAttachmentCallTime), "asking for a worker");
    // The stream may have broken during the call, and a server that came back
    // in between knows nothing of the worker.
    if (!reader_.state().ok() || absl::IsDeadlineExceeded(status)) {
      return NoCatalogAnswers(connection_->address);
    }
    return status;
  }

 private:
  const std::shared_ptr<Connection> connection_;
  const v1::AttachRequest request_;
  bool attached_ = false;
  bool in_order_ = false;
  bool abandoned_ = false;
  StreamReader<v1::AttachResponse> reader_;
};

class GrpcWatch : public VersionWatch {
 public:
  GrpcWatch(std::shared_ptr<Connection> connection, const std::string& model)
      : connection_(std::move(connection)),
        attention_(connection_->streams),
        reader_(
            connection_, "watching versions",
            [this](const v1::WatchVersionsResponse& response) {
              for (const wire::VersionRecord& record : response.records()) {
                queue_.Push(FromWire(record));
              }
              queue_.Wake();
            },
            [this](const absl::Status& end) {
              queue_.Close(end);
              queue_.Wake();
            }) {
    request_.set_model(model);
  }
  ~GrpcWatch() override { queue_.SetWake(nullptr); }

  absl::Status Open(base::Deadline deadline) {
    return reader_.Open(&v1::Catalog::Stub::PrepareAsyncWatchVersions, request_,
                        deadline);
  }

  absl::StatusOr<VersionRecord> Next(base::Deadline deadline) override {
    return queue_.Next(deadline);
  }
  void Cancel() override { queue_.Cancel(); }
  void SetWake(std::function<void()> wake) override {
    queue_.SetWake(std::move(wake));
  }

 private:
  const std::shared_ptr<Connection> connection_;
  VersionQueue queue_;
  v1::WatchVersionsRequest request_;
  // Whoever watches waits for what comes.
  const StreamThread::Attention attention_;
  // Last: its destructor waits for the callbacks, which use the queue.
  StreamReader<v1::WatchVersionsResponse> reader_;
};

}  // namespace

void Connection::SetDeadline(grpc::ClientContext& context,
                             base::Deadline deadline) {
  context.set_deadline(gpr_time_add(
      gpr_now(GPR_CLOCK_MONOTONIC),
      gpr_time_from_nanos(deadline.Remaining().count(), GPR_TIMESPAN)));
}

void Connection::AddToken(grpc::ClientContext& context) const {
  const std::string token = bearer->Token();
  if (!token.empty()) context.AddMetadata(kTokenHeader, kTokenScheme + token);
}

absl::StatusOr<std::unique_ptr<Attachment>> OpenAttachment(
    std::shared_ptr<Connection> connection, const v1::AttachRequest& request,
    base::Deadline deadline, std::function<void()> on_end) {
  WEFT_RETURN_IF_ERROR(deadline.Check("attaching a worker"));
  auto attachment = std::make_unique<GrpcAttachment>(
      std::move(connection), request, std::move(on_end));
  WEFT_RETURN_IF_ERROR(attachment->Open(deadline));
  return attachment;
}

absl::StatusOr<std::unique_ptr<VersionWatch>> OpenWatch(
    std::shared_ptr<Connection> connection, const std::string& model,
    base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("starting a version watch"));
  auto watch = std::make_unique<GrpcWatch>(std::move(connection), model);
  WEFT_RETURN_IF_ERROR(watch->Open(deadline));
  return watch;
}

}  // namespace weft::catalog
