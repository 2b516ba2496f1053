// Inside of room `plan`: how even the load of the sources could be at best.
#ifndef WEFT_PLAN_REPLICA_BOUND_H_
#define WEFT_PLAN_REPLICA_BOUND_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "weft/plan/compact_plan.h"
#include "weft/plan/source_table.h"

namespace weft::plan {

// What is read must come from one of those that hold it. So the sources of any
// set carry together at least all that only they hold, and the busiest of them
// no less than the mean of that.
class ReplicaBound {
 public:
  explicit ReplicaBound(const SourceTable& sources);
  // A series of a plan, of the tensor of `entry`.
  void Add(const TensorEntry& entry, const MoveSeries& series);
  // Bytes of the busiest source, at least, whoever is chosen among replicas.
  int64_t LeastBytes() const;

 private:
  int32_t SetOf(const BoxGroup& group, int64_t member);

  const SourceTable& sources_;
  std::vector<int64_t> alone_bytes_;  // by source: what nobody else holds
  std::map<std::vector<int32_t>, int32_t> set_of_sources_;
  std::vector<std::vector<int32_t>> sets_;  // ascending
  std::vector<int64_t> set_bytes_;
  // By member, of groups with replicas.
  absl::flat_hash_map<const BoxGroup*, std::vector<int32_t>> sets_of_group_;
  std::vector<const BoxGroup*> groups_;
};

}  // namespace weft::plan

#endif  // WEFT_PLAN_REPLICA_BOUND_H_
