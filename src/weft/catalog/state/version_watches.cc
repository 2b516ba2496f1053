#include "weft/catalog/state/version_watches.h"

#include <set>

namespace weft::catalog {

std::shared_ptr<VersionQueue> VersionWatches::Subscribe(
    const std::string& model, const std::vector<VersionRecord>& existing) {
  auto queue = std::make_shared<VersionQueue>();
  for (const VersionRecord& record : existing) queue->Push(record);
  by_model_[model].push_back(queue);
  return queue;
}

void VersionWatches::Unsubscribe(const std::string& model,
                                 const std::shared_ptr<VersionQueue>& queue) {
  const auto watches = by_model_.find(model);
  if (watches == by_model_.end()) return;
  std::erase(watches->second, queue);
  if (watches->second.empty()) by_model_.erase(watches);
}

VersionWatches::Queues VersionWatches::Push(
    const std::vector<VersionRecord>& changes) {
  std::set<std::string> models;
  for (const VersionRecord& change : changes) {
    const auto watches = by_model_.find(change.model);
    if (watches == by_model_.end()) continue;
    for (const auto& queue : watches->second) queue->Push(change);
    models.insert(change.model);
  }
  Queues to_wake;
  for (const std::string& model : models) {
    const Queues& queues = by_model_.at(model);
    to_wake.insert(to_wake.end(), queues.begin(), queues.end());
  }
  return to_wake;
}

VersionWatches::Queues VersionWatches::All() const {
  Queues all;
  for (const auto& [model, queues] : by_model_) {
    all.insert(all.end(), queues.begin(), queues.end());
  }
  return all;
}

}  // namespace weft::catalog
