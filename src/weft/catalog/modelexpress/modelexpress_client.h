// Asks a ModelExpress server, Weft's or NVIDIA's, which sources it knows.
#ifndef WEFT_CATALOG_MODELEXPRESS_MODELEXPRESS_CLIENT_H_
#define WEFT_CATALOG_MODELEXPRESS_MODELEXPRESS_CLIENT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/base/deadline.h"

namespace weft::catalog {

struct ModelExpressTensor {
  std::string name;
  std::string dtype;  // as torch spells it
  uint64_t bytes = 0;
  uint32_t device_id = 0;
};

// One rank of one worker.
struct ModelExpressSource {
  std::string source_id;
  std::string worker_id;
  std::string model;
  uint32_t rank = 0;
  std::string status;     // "READY"
  std::string framework;  // "vllm"
  std::string transport;  // "nixl", "transfer engine", or "none"
  std::string accelerator;
  std::optional<uint64_t> training_step;
  int64_t updated_at_ms = 0;
  std::string worker_endpoint;  // asked for the tensors, if it has them
  std::vector<ModelExpressTensor> tensors;
  std::string note;  // why `tensors` is empty, or nothing
};

// All sources, or those of `model`, by model, source, worker and rank. The
// tensors are those that the server holds; `ask_workers` asks a worker that
// keeps its own. kUnavailable if no server answers at HOST:PORT `address`.
absl::StatusOr<std::vector<ModelExpressSource>> ListModelExpressSources(
    const std::string& address, const std::string& model, bool ask_workers,
    base::Deadline deadline);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_MODELEXPRESS_MODELEXPRESS_CLIENT_H_
