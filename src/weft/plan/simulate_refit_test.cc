#include "weft/plan/simulate_refit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <tuple>

#include "nlohmann/json.hpp"

namespace weft::plan {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// A plan of which only the bytes by peer matter here.
CompactPlan PlanOf(
    int64_t target_rank,
    const std::vector<std::pair<int64_t, int64_t>>& bytes_by_source) {
  CompactPlan plan;
  plan.target_rank = target_rank;
  for (const auto& [rank, bytes] : bytes_by_source) {
    PeerTraffic peer;
    peer.src_rank = rank;
    peer.src_bytes = bytes;
    plan.peers.push_back(std::move(peer));
  }
  return plan;
}

constexpr int64_t kRanks = 16;

UniformFleet Simple() {
  UniformFleet fleet;
  fleet.gpus_per_node = 2;
  fleet.nic_bytes_per_second = 100.0 * kMiB;
  fleet.nvlink_bytes_per_second = 1000.0 * kMiB;
  fleet.latency_seconds = 0;
  return fleet;
}

RefitSimulation Simulate(const std::vector<CompactPlan>& plans,
                         const UniformFleet& fleet = Simple(),
                         SimulationOptions options = {}) {
  return SimulateRefit(plans, PlaceInOrder(fleet, kRanks, kRanks), options)
      .value();
}

TEST(SimulateRefitTest, OneFlowTakesItsBytesOverTheNic) {
  const RefitSimulation one = Simulate({PlanOf(0, {{0, 200 * kMiB}})});
  EXPECT_NEAR(one.seconds, 2, 1e-9);
  EXPECT_NEAR(one.bound_seconds, 2, 1e-9);
  EXPECT_EQ(one.cross_node_bytes, 200 * kMiB);
  EXPECT_EQ(one.num_operations, 50);
}

TEST(SimulateRefitTest, SourcesOfOneReceiverShareItsNic) {
  const RefitSimulation fan_in = Simulate(
      {PlanOf(0, {{0, 100 * kMiB}, {1, 100 * kMiB}, {2, 100 * kMiB}})});
  // The first operation is sent before it can be received in full.
  EXPECT_NEAR(fan_in.seconds, 3, 0.05);
  EXPECT_GE(fan_in.seconds, 3);
  EXPECT_EQ(fan_in.ports[fan_in.critical_port].ToString(),
            "nic of engine rank 0, receiving");
  EXPECT_NEAR(fan_in.receive_bound_seconds, 3, 1e-9);
  EXPECT_NEAR(fan_in.send_bound_seconds, 1, 1e-9);
}

TEST(SimulateRefitTest, ReceiversOfOneSourceShareItsNic) {
  const RefitSimulation fan_out =
      Simulate({PlanOf(0, {{0, 100 * kMiB}}), PlanOf(1, {{0, 100 * kMiB}}),
                PlanOf(2, {{0, 100 * kMiB}})});
  EXPECT_NEAR(fan_out.seconds, 3, 1e-9);
  EXPECT_EQ(fan_out.ports[fan_out.critical_port].ToString(),
            "nic of trainer rank 0, sending");
}

TEST(SimulateRefitTest, OneNodeGoesByNvlink) {
  UniformFleet topology = Simple();
  topology.colocated = true;
  // Trainer rank 0 and engine rank 1 live on node 0, trainer rank 2 on node 1.
  const RefitSimulation both =
      Simulate({PlanOf(1, {{0, 1000 * kMiB}, {2, 100 * kMiB}})}, topology);
  EXPECT_EQ(both.cross_node_bytes, 100 * kMiB);
  EXPECT_NEAR(both.seconds, 1, 0.1);
  EXPECT_EQ(both.ports.size(), 4u);
}

TEST(SimulateRefitTest, AWindowOfOneWaitsForEachOperation) {
  UniformFleet topology = Simple();
  topology.latency_seconds = 0.1;
  SimulationOptions options;
  options.window = 1;
  options.operation_bytes = 10 * kMiB;
  const std::vector<CompactPlan> plans = {PlanOf(0, {{0, 100 * kMiB}})};
  // Ten times latency and 0.1 s on the wire.
  EXPECT_NEAR(Simulate(plans, topology, options).seconds, 2, 1e-9);
  options.window = 2;
  EXPECT_NEAR(Simulate(plans, topology, options).seconds, 1.1, 1e-9);
}

TEST(SimulateRefitTest, NothingToMoveTakesNoTime) {
  EXPECT_EQ(Simulate({}).seconds, 0);
  EXPECT_EQ(Simulate({PlanOf(0, {}), PlanOf(1, {{0, 0}})}).seconds, 0);
}

// What must hold of any fleet: no port is faster than its rate, all bytes pass
// two ports, slices of one port do not overlap and are its bytes.
TEST(SimulateRefitTest, RandomFleets) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  const auto pick = [&](int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(random);
  };
  for (int round = 0; round < 200; ++round) {
    std::vector<CompactPlan> plans;
    const int64_t sources = pick(1, 9);
    double serial_seconds = 0;
    int64_t total = 0;
    UniformFleet topology = Simple();
    topology.colocated = pick(0, 1) == 0;
    topology.latency_seconds = static_cast<double>(pick(0, 2)) * 0.01;
    for (int64_t rank = 0, n = pick(1, 9); rank < n; ++rank) {
      std::vector<std::pair<int64_t, int64_t>> bytes;
      for (int64_t s = 0; s < sources; ++s) {
        if (pick(0, 2) == 0) continue;
        bytes.emplace_back(s, pick(0, 40 * kMiB));
        total += bytes.back().second;
      }
      plans.push_back(PlanOf(rank, bytes));
    }
    SimulationOptions options;
    options.window = pick(1, 5);
    options.operation_bytes = pick(kMiB, 20 * kMiB);
    options.max_operations = pick(0, 1) == 0 ? 20 : 10000;
    options.keep_trace = true;
    const RefitSimulation simulation = Simulate(plans, topology, options);
    serial_seconds =
        static_cast<double>(simulation.num_operations) *
            topology.latency_seconds +
        2 * static_cast<double>(total) / topology.nic_bytes_per_second;
    EXPECT_EQ(simulation.total_bytes, total);
    EXPECT_GE(simulation.seconds, simulation.bound_seconds - 1e-9);
    EXPECT_LE(simulation.seconds, serial_seconds + 1e-9);
    EXPECT_GE(simulation.bound_seconds + 1e-9,
              std::max(simulation.receive_bound_seconds,
                       simulation.send_bound_seconds));
    std::map<int32_t, std::vector<TraceSlice>> by_port;
    for (const TraceSlice& slice : simulation.trace) {
      by_port[slice.port].push_back(slice);
    }
    int64_t port_bytes = 0;
    for (size_t p = 0; p < simulation.ports.size(); ++p) {
      auto& slices = by_port[static_cast<int32_t>(p)];
      std::sort(slices.begin(), slices.end(),
                [](const TraceSlice& a, const TraceSlice& b) {
                  return a.begin_seconds < b.begin_seconds;
                });
      int64_t bytes = 0;
      double end = 0;
      for (const TraceSlice& slice : slices) {
        EXPECT_GE(slice.begin_seconds, end - 1e-9);
        end = slice.end_seconds;
        bytes += slice.bytes;
      }
      EXPECT_EQ(bytes, simulation.ports[p].bytes);
      EXPECT_LE(end, simulation.seconds + 1e-9);
      port_bytes += bytes;
    }
    EXPECT_EQ(port_bytes, 2 * total);
  }
}

TEST(SimulateRefitTest, TheSameInputsGiveTheSameResult) {
  const std::vector<CompactPlan> plans = {
      PlanOf(0, {{0, 70 * kMiB}, {1, 50 * kMiB}}), PlanOf(1, {{1, 30 * kMiB}})};
  SimulationOptions options;
  options.keep_trace = true;
  const RefitSimulation first = Simulate(plans, Simple(), options);
  const RefitSimulation second = Simulate(plans, Simple(), options);
  const FleetTopology placed = PlaceInOrder(Simple(), kRanks, kRanks);
  EXPECT_EQ(TraceJson(first, placed), TraceJson(second, placed));
}

TEST(SimulateRefitTest, TheTraceIsWhatPerfettoReads) {
  SimulationOptions options;
  options.keep_trace = true;
  const RefitSimulation simulation =
      Simulate({PlanOf(3, {{0, 8 * kMiB}})}, Simple(), options);
  const auto json = nlohmann::json::parse(
      TraceJson(simulation, PlaceInOrder(Simple(), kRanks, kRanks)));
  int slices = 0;
  for (const auto& event : json["traceEvents"]) {
    ASSERT_TRUE(event.contains("pid"));
    if (event["ph"] != "X") continue;
    ++slices;
    EXPECT_EQ(event["name"], "0 -> 3");
    EXPECT_EQ(event["args"]["bytes"], 8 * kMiB);
    EXPECT_NEAR(event["dur"].get<double>(), 80000, 1e-3);
  }
  EXPECT_EQ(slices, 2);
}

TEST(SimulateRefitTest, GpusShareTheNicsOfTheirNode) {
  // Two NICs of four GPUs: trainer ranks 0 and 1 share one.
  FleetTopology topology;
  topology.latency_seconds = 0;
  topology.nodes = {{"t", 4, 2, 100.0 * kMiB, 1000.0 * kMiB},
                    {"e", 4, 8, 25.0 * kMiB, 1000.0 * kMiB}};
  topology.trainers = {{0, 0}, {0, 1}, {0, 2}, {0, 3}};
  topology.engines = {{1, 0}, {1, 1}};
  const RefitSimulation found =
      SimulateRefit({PlanOf(0, {{0, 100 * kMiB}, {1, 100 * kMiB}}),
                     PlanOf(1, {{2, 50 * kMiB}})},
                    topology, {})
          .value();
  // 200 MiB at 100 MiB/s to send; to receive, two NICs of 25 MiB/s.
  const SimulatedPort& critical = found.ports[found.critical_port];
  EXPECT_EQ(critical.ToString(), "nic of engine rank 0, receiving");
  EXPECT_NEAR(critical.busy_seconds, 4, 1e-9);
  const auto shared = std::find_if(
      found.ports.begin(), found.ports.end(), [](const SimulatedPort& port) {
        return port.ToString() == "nic of trainer ranks 0, 1, sending";
      });
  ASSERT_NE(shared, found.ports.end());
  EXPECT_NEAR(shared->busy_seconds, 2, 1e-9);
  EXPECT_EQ(found.sending.num_nics, 2);
  EXPECT_NEAR(found.sending.max_over_mean, 200.0 / 125, 1e-9);
  EXPECT_EQ(found.receiving.num_nics, 2);
  EXPECT_NEAR(found.receiving.max_over_mean, 200.0 / 125, 1e-9);
  EXPECT_NEAR(found.send_bound_seconds, 250.0 / 200, 1e-9);
  EXPECT_NEAR(found.receive_bound_seconds, 250.0 / 100, 1e-9);
}

TEST(SimulateRefitTest, TheSpineCarriesWhatChangesItsRail) {
  FleetTopology topology = PlaceInOrder(Simple(), 2, 2);
  topology.rails = true;
  const std::vector<CompactPlan> plans = {
      PlanOf(0, {{0, 100 * kMiB}, {1, 100 * kMiB}}),
      PlanOf(1, {{1, 60 * kMiB}})};
  RefitSimulation found = SimulateRefit(plans, topology, {}).value();
  EXPECT_EQ(found.cross_rail_bytes, 100 * kMiB);
  EXPECT_NEAR(found.bound_seconds, 2, 1e-9);
  topology.spine_bytes_per_second = 20.0 * kMiB;
  found = SimulateRefit(plans, topology, {}).value();
  EXPECT_NEAR(found.bound_seconds, 5, 1e-9);
  EXPECT_EQ(found.ports[found.critical_port].ToString(), "spine");
  EXPECT_GE(found.seconds, 5);
  EXPECT_LE(found.seconds, 5.5);
}

TEST(SimulateRefitTest, AGatherGoesOverTheTrainersNics) {
  UniformFleet fleet = Simple();
  EXPECT_NEAR(GatherSeconds(400 * kMiB, PlaceInOrder(fleet, 4, 4)), 1, 1e-9);
  // Within one node over NVLink.
  EXPECT_NEAR(GatherSeconds(400 * kMiB, PlaceInOrder(fleet, 2, 4)), 0.2, 1e-9);
}

TEST(SimulateRefitTest, AllThatIsWrongIsNamed) {
  FleetTopology topology;
  topology.nodes = {{"a", 2, 0, -1, 450e9}};
  topology.trainers = {{0, 0}, {0, 2}, {7, 0}};
  topology.latency_seconds = -1;
  absl::Status status = SimulateRefit({}, topology, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  for (const char* part :
       {"count of NICs of node \"a\" is 0", "a NIC of node \"a\" is -1",
        "latency in seconds is -1",
        "trainer rank 1 is on GPU 2 of the 2 of node \"a\"",
        "trainer rank 2 is on node 7 of 1"}) {
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(part));
  }
  SimulationOptions options;
  options.window = 0;
  status = SimulateRefit({PlanOf(3, {{5, 1}})}, PlaceInOrder(Simple(), 2, 2),
                         options)
               .status();
  for (const char* part :
       {"window is 0", "engine rank 3 has no place", "trainer rank 5 has"}) {
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(part));
  }
}

}  // namespace
}  // namespace weft::plan
