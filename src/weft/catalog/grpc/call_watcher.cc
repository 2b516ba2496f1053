#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "catalog.pb.h"
#include "weft/catalog/grpc/call_watcher_internal.h"

namespace weft::catalog {
namespace {

using Clock = std::chrono::steady_clock;

// The name after the last '/', if the service has it. Lives as long as the
// program.
std::string_view KnownName(std::string_view path) {
  static const auto* service =
      v1::VersionId::descriptor()->file()->FindServiceByName("Catalog");
  const std::string name(path.substr(path.rfind('/') + 1));
  const auto* method = service->FindMethodByName(name);
  return method == nullptr ? std::string_view("other")
                           : std::string_view(method->name());
}

class CallWatcher final : public grpc::experimental::Interceptor {
 public:
  CallWatcher(CallObserver* observer, std::string_view path)
      : observer_(observer), method_(KnownName(path)), start_(Clock::now()) {
    observer_->OnStart(method_);
  }
  ~CallWatcher() override {
    observer_->OnEnd(
        method_, code_,
        std::chrono::duration<double>(Clock::now() - start_).count());
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* batch) override {
    if (batch->QueryInterceptionHookPoint(
            grpc::experimental::InterceptionHookPoints::PRE_SEND_STATUS)) {
      code_ =
          static_cast<absl::StatusCode>(batch->GetSendStatus().error_code());
    }
    batch->Proceed();
  }

 private:
  CallObserver* const observer_;
  const std::string_view method_;
  const Clock::time_point start_;
  absl::StatusCode code_ = absl::StatusCode::kCancelled;
};

class CallWatcherFactory final
    : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit CallWatcherFactory(CallObserver* observer) : observer_(observer) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return new CallWatcher(observer_, info->method());
  }

 private:
  CallObserver* const observer_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>
MakeCallWatcher(CallObserver* observer) {
  return std::make_unique<CallWatcherFactory>(observer);
}

}  // namespace weft::catalog
