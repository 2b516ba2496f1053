// A fleet's nodes and links from a file (docs/formats/topology.md).
#ifndef WEFT_APPS_TOPOLOGY_FILE_H_
#define WEFT_APPS_TOPOLOGY_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "weft/plan/fleet_topology.h"

namespace weft::apps {

// YAML or JSON. kInvalidArgument with all that is wrong, each with its line:
// unknown keys, values that are no numbers, ranks that have no place, two, or
// that do not exist.
absl::StatusOr<plan::FleetTopology> ParseTopology(const std::string& text,
                                                  const std::string& file_name,
                                                  int64_t num_trainers,
                                                  int64_t num_engines);
// kUnavailable if the file cannot be read.
absl::StatusOr<plan::FleetTopology> LoadTopology(const std::string& path,
                                                 int64_t num_trainers,
                                                 int64_t num_engines);

}  // namespace weft::apps

#endif  // WEFT_APPS_TOPOLOGY_FILE_H_
