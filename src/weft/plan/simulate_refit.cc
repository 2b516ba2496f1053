#include "weft/plan/simulate_refit.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <queue>
#include <set>
#include <tuple>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "weft/base/checked.h"
#include "weft/base/status.h"

namespace weft::plan {
namespace {

struct Flow {
  int64_t src_rank = 0;
  int64_t bytes = 0;
  int64_t left_bytes = 0;
  // In the order in which an operation passes them.
  absl::InlinedVector<int32_t, 3> ports;
};

// One engine rank: what it still has to ask for.
struct Reader {
  int64_t rank = 0;
  std::vector<Flow> flows;
  size_t next_flow = 0;
};

class Simulator {
 public:
  Simulator(const FleetTopology& topology, const SimulationOptions& options)
      : topology_(topology), options_(options) {}

  RefitSimulation Run(const std::vector<CompactPlan>& plans) {
    MakeFlows(plans);
    MeasureBounds();
    ChooseOperationSize();
    for (size_t r = 0; r < readers_.size(); ++r) {
      for (int64_t i = 0; i < options_.window; ++i) {
        if (!Ask(r, 0)) break;
      }
    }
    while (!events_.empty()) {
      const Event event = events_.top();
      events_.pop();
      Serve(event);
    }
    return std::move(result_);
  }

 private:
  // An operation that reaches a port; ties by the order in which they were
  // made, so that equal inputs give equal results.
  struct Event {
    double at_seconds = 0;
    int64_t number = 0;
    int32_t reader = 0;
    int32_t flow = 0;
    int64_t bytes = 0;
    size_t stage = 0;  // into Flow::ports
  };
  struct Later {
    bool operator()(const Event& a, const Event& b) const {
      return std::tie(a.at_seconds, a.number) >
             std::tie(b.at_seconds, b.number);
    }
  };

  const FleetTopology::Place& PlaceOf(bool is_trainer, int64_t rank) const {
    return (is_trainer ? topology_.trainers : topology_.engines)[rank];
  }

  int32_t Port(PortKind kind, bool is_trainer, int64_t rank) {
    const FleetTopology::Place& place = PlaceOf(is_trainer, rank);
    const FleetNode& node = topology_.nodes[place.node];
    const auto index = kind == PortKind::kNic
                           ? static_cast<int32_t>(node.port_of(place.gpu))
                           : place.gpu;
    const auto [it, is_new] =
        port_of_.try_emplace({kind, is_trainer, place.node, index},
                             static_cast<int32_t>(port_of_.size()));
    if (is_new) {
      SimulatedPort port;
      port.kind = kind;
      port.is_trainer = is_trainer;
      port.node = place.node;
      port.index = index;
      port.bytes_per_second = kind == PortKind::kNic
                                  ? node.port_bytes_per_second()
                                  : node.nvlink_bytes_per_second;
      result_.ports.push_back(std::move(port));
    }
    std::vector<int64_t>& ranks = result_.ports[it->second].ranks;
    const auto at = std::lower_bound(ranks.begin(), ranks.end(), rank);
    if (at == ranks.end() || *at != rank) ranks.insert(at, rank);
    return it->second;
  }

  int32_t Spine() {
    const auto [it, is_new] =
        port_of_.try_emplace({PortKind::kSpine, false, -1, 0},
                             static_cast<int32_t>(port_of_.size()));
    if (is_new) {
      SimulatedPort port;
      port.kind = PortKind::kSpine;
      port.bytes_per_second = topology_.spine_bytes_per_second;
      result_.ports.push_back(std::move(port));
    }
    return it->second;
  }

  Flow MakeFlow(int64_t src_rank, int64_t dst_rank, int64_t bytes) {
    Flow flow{src_rank, bytes, bytes, {}};
    const bool crosses =
        PlaceOf(true, src_rank).node != PlaceOf(false, dst_rank).node;
    const PortKind kind = crosses ? PortKind::kNic : PortKind::kNvlink;
    const int32_t send = Port(kind, true, src_rank);
    const int32_t receive = Port(kind, false, dst_rank);
    flow.ports.push_back(send);
    if (crosses) {
      result_.cross_node_bytes += bytes;
      if (topology_.rails &&
          result_.ports[send].index != result_.ports[receive].index) {
        result_.cross_rail_bytes += bytes;
        if (topology_.spine_bytes_per_second > 0) flow.ports.push_back(Spine());
      }
    }
    flow.ports.push_back(receive);
    for (const int32_t port : flow.ports) result_.ports[port].bytes += bytes;
    result_.total_bytes += bytes;
    return flow;
  }

  void MakeFlows(const std::vector<CompactPlan>& plans) {
    for (const CompactPlan& plan : plans) {
      Reader reader;
      reader.rank = plan.target_rank;
      for (const PeerTraffic& peer : plan.peers) {
        if (peer.src_bytes == 0) continue;
        reader.flows.push_back(
            MakeFlow(peer.src_rank, plan.target_rank, peer.src_bytes));
      }
      readers_.push_back(std::move(reader));
    }
  }

  void MeasureBounds() {
    double send_rate = 0;
    double receive_rate = 0;
    for (size_t p = 0; p < result_.ports.size(); ++p) {
      SimulatedPort& port = result_.ports[p];
      port.busy_seconds =
          static_cast<double>(port.bytes) / port.bytes_per_second;
      if (port.kind == PortKind::kNic) {
        (port.is_trainer ? send_rate : receive_rate) += port.bytes_per_second;
        NicLoad& load = port.is_trainer ? result_.sending : result_.receiving;
        load.most_bytes = std::max(load.most_bytes, port.bytes);
      }
      if (port.busy_seconds > result_.bound_seconds) {
        result_.bound_seconds = port.busy_seconds;
        result_.critical_port = static_cast<int32_t>(p);
      }
    }
    const auto bytes = static_cast<double>(result_.cross_node_bytes);
    if (bytes > 0) {
      result_.receive_bound_seconds = bytes / receive_rate;
      result_.send_bound_seconds = bytes / send_rate;
    }
    for (NicLoad* load : {&result_.sending, &result_.receiving}) {
      load->num_nics = NumNics(load == &result_.sending);
      if (bytes > 0) {
        load->max_over_mean = static_cast<double>(load->most_bytes) *
                              static_cast<double>(load->num_nics) / bytes;
      }
    }
    free_at_seconds_.resize(result_.ports.size());
    last_slice_.resize(result_.ports.size(), -1);
  }

  // NICs that any rank of one side has.
  int64_t NumNics(bool is_trainer) const {
    std::set<std::pair<int32_t, int64_t>> nics;
    for (const FleetTopology::Place& place :
         is_trainer ? topology_.trainers : topology_.engines) {
      nics.emplace(place.node, topology_.nodes[place.node].port_of(place.gpu));
    }
    return static_cast<int64_t>(nics.size());
  }

  void ChooseOperationSize() {
    int64_t& size = result_.operation_bytes;
    for (size = options_.operation_bytes;; size *= 2) {
      int64_t operations = 0;
      for (const Reader& reader : readers_) {
        for (const Flow& flow : reader.flows) {
          operations += base::CeilDiv(flow.bytes, size);
        }
      }
      if (operations <= options_.max_operations ||
          size >= result_.total_bytes) {
        return;
      }
    }
  }

  // The reader asks for its next operation, from the next source that has any.
  bool Ask(size_t reader_index, double now_seconds) {
    Reader& reader = readers_[reader_index];
    for (size_t tried = 0; tried < reader.flows.size(); ++tried) {
      const size_t f = reader.next_flow;
      reader.next_flow = (f + 1) % reader.flows.size();
      Flow& flow = reader.flows[f];
      if (flow.left_bytes == 0) continue;
      const int64_t bytes = std::min(flow.left_bytes, result_.operation_bytes);
      flow.left_bytes -= bytes;
      ++result_.num_operations;
      events_.push({now_seconds + topology_.latency_seconds, next_number_++,
                    static_cast<int32_t>(reader_index), static_cast<int32_t>(f),
                    bytes, 0});
      return true;
    }
    return false;
  }

  double SecondsOn(int32_t port, int64_t bytes) const {
    return static_cast<double>(bytes) / result_.ports[port].bytes_per_second;
  }

  void Serve(const Event& event) {
    const Reader& reader = readers_[event.reader];
    const Flow& flow = reader.flows[event.flow];
    const int32_t port = flow.ports[event.stage];
    const double begin = std::max(event.at_seconds, free_at_seconds_[port]);
    const double end = begin + SecondsOn(port, event.bytes);
    free_at_seconds_[port] = end;
    if (options_.keep_trace) {
      Note(port, flow.src_rank, reader.rank, event.bytes, begin, end);
    }
    if (event.stage + 1 < flow.ports.size()) {
      // The next port takes the first byte while this one works on the rest:
      // it is asked as if it could take all by the same end.
      Event next = event;
      ++next.stage;
      next.at_seconds =
          std::max(begin, end - SecondsOn(flow.ports[next.stage], event.bytes));
      next.number = next_number_++;
      events_.push(next);
      return;
    }
    result_.seconds = std::max(result_.seconds, end);
    Ask(static_cast<size_t>(event.reader), end);
  }

  void Note(int32_t port, int64_t src_rank, int64_t dst_rank, int64_t bytes,
            double begin, double end) {
    const int32_t last = last_slice_[port];
    if (last >= 0) {
      TraceSlice& slice = result_.trace[last];
      if (slice.src_rank == src_rank && slice.dst_rank == dst_rank &&
          slice.end_seconds == begin) {
        slice.end_seconds = end;
        slice.bytes += bytes;
        return;
      }
    }
    last_slice_[port] = static_cast<int32_t>(result_.trace.size());
    result_.trace.push_back({port, src_rank, dst_rank, bytes, begin, end});
  }

  const FleetTopology& topology_;
  const SimulationOptions& options_;
  RefitSimulation result_;
  // By kind, side, node and index.
  std::map<std::tuple<PortKind, bool, int32_t, int32_t>, int32_t> port_of_;
  std::vector<Reader> readers_;
  std::vector<double> free_at_seconds_;  // by port
  std::vector<int32_t> last_slice_;      // by port; -1 = none
  std::priority_queue<Event, std::vector<Event>, Later> events_;
  int64_t next_number_ = 0;
};

absl::Status CheckInputs(const std::vector<CompactPlan>& plans,
                         const FleetTopology& topology,
                         const SimulationOptions& options) {
  WEFT_RETURN_IF_ERROR(topology.Check());
  base::FaultList faults;
  const auto check = [&faults](const char* name, int64_t value) {
    if (value <= 0) {
      faults.Add(absl::StrCat(name, " is ", value, ", it must be above 0"));
    }
  };
  check("window", options.window);
  check("bytes of an operation", options.operation_bytes);
  check("most operations", options.max_operations);
  std::set<int64_t> trainers;
  for (const CompactPlan& plan : plans) {
    if (plan.target_rank >= static_cast<int64_t>(topology.engines.size())) {
      faults.Add(absl::StrCat("engine rank ", plan.target_rank,
                              " has no place in the topology"));
    }
    for (const PeerTraffic& peer : plan.peers) trainers.insert(peer.src_rank);
  }
  for (const int64_t rank : trainers) {
    if (rank >= static_cast<int64_t>(topology.trainers.size())) {
      faults.Add(
          absl::StrCat("trainer rank ", rank, " has no place in the topology"));
    }
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

}  // namespace

std::string SimulatedPort::ToString() const {
  if (kind == PortKind::kSpine) return "spine";
  std::string text =
      absl::StrCat(kind == PortKind::kNic ? "nic" : "nvlink", " of ",
                   is_trainer ? "trainer" : "engine", " rank");
  if (ranks.size() > 1) absl::StrAppend(&text, "s");
  absl::StrAppend(&text, " ", absl::StrJoin(ranks, ", "),
                  is_trainer ? ", sending" : ", receiving");
  return text;
}

absl::StatusOr<RefitSimulation> SimulateRefit(
    const std::vector<CompactPlan>& plans, const FleetTopology& topology,
    const SimulationOptions& options) {
  WEFT_RETURN_IF_ERROR(CheckInputs(plans, topology, options));
  return Simulator(topology, options).Run(plans);
}

double GatherSeconds(int64_t unique_bytes, const FleetTopology& topology) {
  std::set<int32_t> nodes;
  std::set<std::pair<int32_t, int64_t>> nics;
  double nic_rate = 0;
  double nvlink_rate = 0;
  for (const FleetTopology::Place& place : topology.trainers) {
    const FleetNode& node = topology.nodes[place.node];
    nodes.insert(place.node);
    nvlink_rate += node.nvlink_bytes_per_second;
    if (nics.emplace(place.node, node.port_of(place.gpu)).second) {
      nic_rate += node.port_bytes_per_second();
    }
  }
  const double rate = nodes.size() == 1 ? nvlink_rate : nic_rate;
  return rate > 0 ? static_cast<double>(unique_bytes) / rate : 0;
}

std::string TraceJson(const RefitSimulation& simulation,
                      const FleetTopology& topology) {
  nlohmann::json events = nlohmann::json::array();
  for (size_t p = 0; p < simulation.ports.size(); ++p) {
    const SimulatedPort& port = simulation.ports[p];
    events.push_back(
        {{"ph", "M"},
         {"name", "process_name"},
         {"pid", port.node},
         {"args",
          {{"name", port.node < 0 ? std::string("fabric")
                                  : topology.nodes[port.node].name}}}});
    events.push_back({{"ph", "M"},
                      {"name", "thread_name"},
                      {"pid", port.node},
                      {"tid", p},
                      {"args", {{"name", port.ToString()}}}});
  }
  for (const TraceSlice& slice : simulation.trace) {
    events.push_back(
        {{"ph", "X"},
         {"name", absl::StrCat(slice.src_rank, " -> ", slice.dst_rank)},
         {"pid", simulation.ports[slice.port].node},
         {"tid", slice.port},
         {"ts", slice.begin_seconds * 1e6},
         {"dur", (slice.end_seconds - slice.begin_seconds) * 1e6},
         {"args", {{"bytes", slice.bytes}}}});
  }
  return nlohmann::json{{"traceEvents", std::move(events)},
                        {"displayTimeUnit", "ms"}}
      .dump();
}

}  // namespace weft::plan
