#include "weft/plan/simulate_refit.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <queue>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "weft/base/checked.h"
#include "weft/base/status.h"

namespace weft::plan {
namespace {

struct Flow {
  int64_t src_rank = 0;
  int64_t bytes = 0;
  int64_t left_bytes = 0;
  int32_t send_port = 0;
  int32_t receive_port = 0;
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

  RefitSimulation Run(const std::vector<Plan>& plans) {
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
    bool receiving = false;
  };
  struct Later {
    bool operator()(const Event& a, const Event& b) const {
      return std::tie(a.at_seconds, a.number) >
             std::tie(b.at_seconds, b.number);
    }
  };

  int64_t NodeOf(bool is_trainer, int64_t rank) const {
    const int64_t node = rank / topology_.gpus_per_node;
    return is_trainer || topology_.colocated ? node : trainer_nodes_ + node;
  }

  int32_t Port(bool is_trainer, int64_t rank, bool is_nic) {
    const auto [it, is_new] = port_of_.try_emplace(
        {is_trainer, rank, is_nic}, static_cast<int32_t>(port_of_.size()));
    if (is_new) {
      SimulatedPort port;
      port.is_trainer = is_trainer;
      port.rank = rank;
      port.is_nic = is_nic;
      result_.ports.push_back(port);
    }
    return it->second;
  }

  double Rate(int32_t port) const {
    return result_.ports[port].is_nic ? topology_.nic_bytes_per_second
                                      : topology_.nvlink_bytes_per_second;
  }

  void MakeFlows(const std::vector<Plan>& plans) {
    int64_t last_trainer = 0;
    for (const Plan& plan : plans) {
      for (const PeerPlan& peer : plan.peers) {
        last_trainer = std::max(last_trainer, peer.src_rank);
      }
    }
    trainer_nodes_ = last_trainer / topology_.gpus_per_node + 1;
    for (const Plan& plan : plans) {
      Reader reader;
      reader.rank = plan.target_rank;
      for (const PeerPlan& peer : plan.peers) {
        if (peer.src_bytes == 0) continue;
        const bool is_nic =
            NodeOf(true, peer.src_rank) != NodeOf(false, plan.target_rank);
        Flow flow{peer.src_rank, peer.src_bytes, peer.src_bytes,
                  Port(true, peer.src_rank, is_nic),
                  Port(false, plan.target_rank, is_nic)};
        for (const int32_t port : {flow.send_port, flow.receive_port}) {
          result_.ports[port].bytes += flow.bytes;
        }
        result_.total_bytes += flow.bytes;
        if (is_nic) result_.cross_node_bytes += flow.bytes;
        reader.flows.push_back(flow);
      }
      readers_.push_back(std::move(reader));
    }
  }

  void MeasureBounds() {
    int64_t senders = 0;
    int64_t receivers = 0;
    for (size_t p = 0; p < result_.ports.size(); ++p) {
      SimulatedPort& port = result_.ports[p];
      const double rate = Rate(static_cast<int32_t>(p));
      port.busy_seconds = static_cast<double>(port.bytes) / rate;
      if (port.is_nic) ++(port.is_trainer ? senders : receivers);
      if (port.busy_seconds > result_.bound_seconds) {
        result_.bound_seconds = port.busy_seconds;
        result_.critical_port = static_cast<int32_t>(p);
      }
    }
    const double seconds = static_cast<double>(result_.cross_node_bytes) /
                           topology_.nic_bytes_per_second;
    if (receivers > 0) {
      result_.receive_bound_seconds = seconds / static_cast<double>(receivers);
      result_.send_bound_seconds = seconds / static_cast<double>(senders);
    }
    free_at_seconds_.resize(result_.ports.size());
    last_slice_.resize(result_.ports.size(), -1);
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
                    bytes, false});
      return true;
    }
    return false;
  }

  void Serve(const Event& event) {
    const Reader& reader = readers_[event.reader];
    const Flow& flow = reader.flows[event.flow];
    const int32_t port = event.receiving ? flow.receive_port : flow.send_port;
    const double begin = std::max(event.at_seconds, free_at_seconds_[port]);
    const double end = begin + static_cast<double>(event.bytes) / Rate(port);
    free_at_seconds_[port] = end;
    if (options_.keep_trace) {
      Note(port, flow.src_rank, reader.rank, event.bytes, begin, end);
    }
    if (!event.receiving) {
      // The receiver's port takes the first byte while the sender's works on
      // the rest: it is asked as if it could take all by the same end.
      Event next = event;
      const double receive_seconds =
          static_cast<double>(event.bytes) / Rate(flow.receive_port);
      next.at_seconds = std::max(begin, end - receive_seconds);
      next.number = next_number_++;
      next.receiving = true;
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
  int64_t trainer_nodes_ = 1;
  std::map<std::tuple<bool, int64_t, bool>, int32_t> port_of_;
  std::vector<Reader> readers_;
  std::vector<double> free_at_seconds_;  // by port
  std::vector<int32_t> last_slice_;      // by port; -1 = none
  std::priority_queue<Event, std::vector<Event>, Later> events_;
  int64_t next_number_ = 0;
};

absl::Status CheckPositive(const FleetTopology& topology,
                           const SimulationOptions& options) {
  base::FaultList faults;
  const auto check = [&faults](const char* name, double value) {
    if (!(value > 0)) {
      faults.Add(absl::StrCat(name, " is ", value, ", it must be above 0"));
    }
  };
  check("gpus per node", static_cast<double>(topology.gpus_per_node));
  check("bytes per second of a nic", topology.nic_bytes_per_second);
  check("bytes per second of nvlink", topology.nvlink_bytes_per_second);
  check("window", static_cast<double>(options.window));
  check("bytes of an operation", static_cast<double>(options.operation_bytes));
  check("most operations", static_cast<double>(options.max_operations));
  if (!(topology.latency_seconds >= 0)) {
    faults.Add(absl::StrCat("latency is ", topology.latency_seconds,
                            " s, it must not be below 0"));
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

}  // namespace

std::string SimulatedPort::ToString() const {
  return absl::StrCat(is_nic ? "nic" : "nvlink", " of ",
                      is_trainer ? "trainer" : "engine", " rank ", rank,
                      is_trainer ? ", sending" : ", receiving");
}

absl::StatusOr<RefitSimulation> SimulateRefit(
    const std::vector<Plan>& plans, const FleetTopology& topology,
    const SimulationOptions& options) {
  WEFT_RETURN_IF_ERROR(CheckPositive(topology, options));
  return Simulator(topology, options).Run(plans);
}

std::string TraceJson(const RefitSimulation& simulation,
                      const FleetTopology& topology) {
  nlohmann::json events = nlohmann::json::array();
  const auto node_of = [&](const SimulatedPort& port) {
    return port.rank / topology.gpus_per_node * 2 + (port.is_trainer ? 0 : 1);
  };
  for (size_t p = 0; p < simulation.ports.size(); ++p) {
    const SimulatedPort& port = simulation.ports[p];
    const int64_t node = node_of(port);
    events.push_back(
        {{"ph", "M"},
         {"name", "process_name"},
         {"pid", node},
         {"args",
          {{"name",
            absl::StrCat(port.is_trainer ? "trainer" : "engine", " node ",
                         port.rank / topology.gpus_per_node)}}}});
    events.push_back({{"ph", "M"},
                      {"name", "thread_name"},
                      {"pid", node},
                      {"tid", p},
                      {"args", {{"name", port.ToString()}}}});
  }
  for (const TraceSlice& slice : simulation.trace) {
    events.push_back(
        {{"ph", "X"},
         {"name", absl::StrCat(slice.src_rank, " -> ", slice.dst_rank)},
         {"pid", node_of(simulation.ports[slice.port])},
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
