#include "catalog_metrics.h"

#include <dirent.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <utility>
#include <vector>

#include "catalog_view.h"
#include "endpoints.h"
#include "version.h"

namespace weft::apps {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr double kStoreSeconds = 2;  // until a store counts as away

using Labels = std::vector<std::pair<std::string, std::string>>;

// One family of gauges that are counted anew at each scrape.
class Gauges {
 public:
  Gauges(std::string name, std::string help,
         MetricType type = MetricType::Gauge) {
    family_.name = std::move(name);
    family_.help = std::move(help);
    family_.type = type;
  }
  void Add(const Labels& labels, double value) { values_[labels] += value; }
  MetricFamily Take() {
    for (const auto& [labels, value] : values_) {
      ClientMetric metric;
      for (const auto& [name, text] : labels) {
        metric.label.push_back({name, text});
      }
      metric.gauge.value = value;
      metric.counter.value = value;
      family_.metric.push_back(std::move(metric));
    }
    return std::move(family_);
  }

 private:
  MetricFamily family_;
  std::map<Labels, double> values_;
};

void Add(std::vector<MetricFamily>& families, std::string name,
         std::string help, double value, MetricType type = MetricType::Gauge) {
  Gauges one(std::move(name), std::move(help), type);
  one.Add({}, value);
  families.push_back(one.Take());
}

std::string ConditionOf(const catalog::WorkerRecord& worker) {
  if (!worker.alive) return worker.death_reason.empty() ? "registered" : "dead";
  return worker.fenced_reason.empty() ? "alive" : "fenced";
}

void AddState(const CatalogView& view, std::vector<MetricFamily>& families) {
  Gauges versions("weft_catalog_versions",
                  "Versions that the catalog knows, by state");
  for (const catalog::VersionRecord& each : view.versions) {
    versions.Add({{"model", each.model},
                  {"state", std::string(catalog::ToString(each.state))}},
                 1);
  }
  Gauges workers("weft_catalog_workers",
                 "Workers that the catalog knows: registered (not attached "
                 "yet), alive, fenced (alive, must not serve), dead");
  for (const catalog::WorkerRecord& each : view.workers) {
    workers.Add(
        {{"model", each.info.model},
         {"role", each.info.role == catalog::Role::kPublisher ? "publisher"
                                                              : "receiver"},
         {"state", ConditionOf(each)}},
        1);
  }
  Gauges leases("weft_catalog_leases", "Leases that are held");
  for (const catalog::VersionRecord& each : view.versions) {
    leases.Add({{"model", each.model}}, static_cast<double>(each.leases));
  }
  for (Gauges* each : {&versions, &workers, &leases}) {
    families.push_back(each->Take());
  }
}

double FirstNumberOf(const char* path, int nth) {
  std::ifstream file(path);
  double number = 0;
  for (int i = 0; i <= nth; ++i) file >> number;
  return number;
}

double OpenDescriptors() {
  DIR* folder = opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  double count = -3;  // ".", ".." and the folder itself
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count;
}

double ThreadCount() {
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word;) {
    double count = 0;
    if (word == "Threads:" && file >> count) return count;
  }
  return 0;
}

// Under the names that Prometheus's own clients use.
void AddProcess(std::vector<MetricFamily>& families) {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) +
           static_cast<double>(time.tv_usec) / 1e6;
  };
  Add(families, "process_cpu_seconds_total",
      "CPU time of the process, user and system",
      seconds(used.ru_utime) + seconds(used.ru_stime), MetricType::Counter);
  Add(families, "process_resident_memory_bytes", "Resident memory",
      FirstNumberOf("/proc/self/statm", 1) *
          static_cast<double>(sysconf(_SC_PAGESIZE)));
  Add(families, "process_open_fds", "Open descriptors", OpenDescriptors());
  Add(families, "process_threads", "Threads", ThreadCount());
}

}  // namespace

struct CatalogMetrics::Families {
  prometheus::Registry registry;
  prometheus::Family<prometheus::Counter>& events =
      prometheus::BuildCounter()
          .Name("weft_catalog_events_total")
          .Help("State changes since this server began, by kind")
          .Register(registry);
  prometheus::Family<prometheus::Counter>& missed =
      prometheus::BuildCounter()
          .Name("weft_catalog_events_missed_total")
          .Help("State changes that this server could not count")
          .Register(registry);
  prometheus::Family<prometheus::Counter>& calls =
      prometheus::BuildCounter()
          .Name("weft_catalog_rpcs_total")
          .Help("Calls that have ended, by method and code")
          .Register(registry);
  prometheus::Family<prometheus::Gauge>& running =
      prometheus::BuildGauge()
          .Name("weft_catalog_rpcs_running")
          .Help(
              "Calls that run: WatchVersions are the watches, Attach the "
              "workers of this server")
          .Register(registry);
  prometheus::Family<prometheus::Histogram>& seconds =
      prometheus::BuildHistogram()
          .Name("weft_catalog_rpc_seconds")
          .Help("Time of the calls that do not wait by their nature")
          .Register(registry);

  // Found once: a family looks labels up as texts, under a lock.
  struct Method {
    prometheus::Gauge* running;
    prometheus::Counter* succeeded;
    prometheus::Histogram* seconds;  // nullptr: it waits by its nature
  };
  const Method& Find(std::string_view name);
  std::mutex mutex;
  std::map<std::string_view, Method> methods;  // the names stay
};

const CatalogMetrics::Families::Method& CatalogMetrics::Families::Find(
    std::string_view method) {
  const std::lock_guard lock(mutex);
  if (const auto known = methods.find(method); known != methods.end()) {
    return known->second;
  }
  static const prometheus::Histogram::BucketBoundaries kBuckets = {
      1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1, 3, 10};
  const std::string name(method);
  const bool waits = name == "Attach" || name == "WatchVersions" ||
                     name == "BeginUpdate" || name == "ReadEvents";
  return methods[method] = {
             &running.Add({{"method", name}}),
             &calls.Add(
                 {{"method", name},
                  {"code", absl::StatusCodeToString(absl::StatusCode::kOk)}}),
             waits ? nullptr : &seconds.Add({{"method", name}}, kBuckets)};
}

CatalogMetrics::CatalogMetrics() : families_(std::make_unique<Families>()) {}
CatalogMetrics::~CatalogMetrics() = default;

void CatalogMetrics::OnStart(std::string_view method) {
  families_->Find(method).running->Increment();
}

void CatalogMetrics::OnEnd(std::string_view method, absl::StatusCode code,
                           double seconds) {
  const Families::Method& of = families_->Find(method);
  of.running->Decrement();
  if (code == absl::StatusCode::kOk) {
    of.succeeded->Increment();
  } else {
    families_->calls
        .Add({{"method", std::string(method)},
              {"code", absl::StatusCodeToString(code)}})
        .Increment();
  }
  if (of.seconds != nullptr) of.seconds->Observe(seconds);
}

void CatalogMetrics::OnEvents(const catalog::EventPage& page) {
  if (page.missed > 0) {
    families_->missed.Add({}).Increment(static_cast<double>(page.missed));
  }
  for (const catalog::Event& event : page.events) {
    families_->events
        .Add({{"event", std::string(catalog::ToString(event.kind))}})
        .Increment();
  }
}

std::string CatalogMetrics::Collect(catalog::CatalogStore& store) {
  std::vector<MetricFamily> families = families_->registry.Collect();
  const auto view = LookAtCatalog(store, "", AfterSeconds(kStoreSeconds));
  Add(families, "weft_catalog_store_up", "1 if the store answers",
      view.ok() ? 1 : 0);
  if (view.ok()) {
    Add(families, "weft_catalog_store_seconds",
        "Time of one listing of versions for this scrape",
        view->answer_seconds);
    Add(families, "weft_catalog_last_event", "Number of the newest event",
        static_cast<double>(view->events));
    AddState(*view, families);
  }
  AddProcess(families);
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, families);
  return text.str();
}

}  // namespace weft::apps
