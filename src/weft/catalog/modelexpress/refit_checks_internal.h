// What is wrong with a request of the refit service, whatever is held.
#ifndef WEFT_CATALOG_MODELEXPRESS_REFIT_CHECKS_INTERNAL_H_
#define WEFT_CATALOG_MODELEXPRESS_REFIT_CHECKS_INTERNAL_H_

#include "absl/status/status.h"
#include "modelexpress_refit.pb.h"

namespace weft::catalog {

// kInvalidArgument with every fault.
absl::Status CheckRefitRequest(
    const ::model_express::refit::RegisterWorkerRequest& request);
absl::Status CheckRefitRequest(
    const ::model_express::refit::CreateWeightVersionRequest& request);
absl::Status CheckRefitRequest(
    const ::model_express::refit::WeightVersionShard& shard);
absl::Status CheckRefitRequest(
    const ::model_express::refit::RegisterVersionLeaseRequest& request);
absl::Status CheckRefitRequest(
    const ::model_express::refit::DeleteWeightVersionShardRequest& request);
absl::Status CheckRefitRequest(
    const ::model_express::refit::DeleteVersionLeaseRequest& request);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_MODELEXPRESS_REFIT_CHECKS_INTERNAL_H_
