// The figures of a catalog for Prometheus: docs/observability.md lists them.
#ifndef WEFT_APPS_CATALOG_METRICS_H_
#define WEFT_APPS_CATALOG_METRICS_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "weft/catalog/event.h"
#include "weft/catalog/grpc/call_observer.h"
#include "weft/catalog/store.h"

namespace weft::apps {

// Threads: all methods may be called from any thread.
class CatalogMetrics : public catalog::CallObserver {
 public:
  CatalogMetrics();
  ~CatalogMetrics() override;

  void OnStart(std::string_view method) override;
  void OnEnd(std::string_view method, absl::StatusCode code,
             double seconds) override;
  void OnEvents(const catalog::EventPage& page);

  // Prometheus's text, with what the store holds now. A store that does not
  // answer is a figure, and no error.
  std::string Collect(catalog::CatalogStore& store);

 private:
  struct Families;
  const std::unique_ptr<Families> families_;
};

}  // namespace weft::apps

#endif  // WEFT_APPS_CATALOG_METRICS_H_
