// The catalog's HTTP port: /metrics, /healthz, /readyz, /status.
#ifndef WEFT_APPS_CATALOG_HTTP_H_
#define WEFT_APPS_CATALOG_HTTP_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "catalog_metrics.h"
#include "weft/catalog/store.h"

namespace weft::apps {

class CatalogHttp {
 public:
  // Listens on "HOST:PORT"; port 0 is a free one. Both must outlive it.
  static absl::StatusOr<std::unique_ptr<CatalogHttp>> Start(
      const std::string& listen_address, catalog::CatalogStore* store,
      CatalogMetrics* metrics);
  // Ends when the requests that run have been answered.
  ~CatalogHttp();

  // "HOST:PORT" with the port that it listens on.
  const std::string& address() const;

 private:
  struct Impl;
  explicit CatalogHttp(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace weft::apps

#endif  // WEFT_APPS_CATALOG_HTTP_H_
