// weft doctor: what this machine has that a refit could use, and what is amiss.
#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "commands.h"
#include "console.h"
#include "endpoints.h"
#include "version.h"
#include "weft/base/status.h"
#include "weft/convert/cuda/program.h"
#include "weft/memory/cuda/cuda_driver.h"
#include "weft/topology/rdma_port.h"
#include "weft/transport/nixl/nixl_transport.h"

namespace weft::apps {
namespace {

struct Link {
  int from = 0;
  int to = 0;
  memory::DeviceLink link;
};

struct Gpus {
  std::string text;  // the driver, or why there is none
  std::vector<memory::DeviceInfo> devices;
  std::vector<Link> links;
};

absl::StatusOr<Gpus> LookAtGpus() {
  Gpus gpus;
  const absl::StatusOr<memory::DeviceDriver*> driver = memory::CudaDriver();
  if (!driver.ok()) {
    gpus.text = std::string(driver.status().message());
    return gpus;
  }
  gpus.text = (*driver)->description();
  for (int device = 0; device < (*driver)->num_devices(); ++device) {
    WEFT_ASSIGN_OR_RETURN(gpus.devices.emplace_back(),
                          (*driver)->Describe(device));
    for (int to = 0; to < (*driver)->num_devices(); ++to) {
      if (to == device) continue;
      WEFT_ASSIGN_OR_RETURN(const memory::DeviceLink link,
                            (*driver)->LinkBetween(device, to));
      gpus.links.push_back({device, to, link});
    }
  }
  return gpus;
}

std::string Words(const memory::DeviceLink& link) {
  if (!link.reachable) return "no peer access";
  return link.atomics ? "NVLink" : "PCIe peer to peer";
}

std::string Kernels() {
  const absl::Status usable = convert::cuda::DeviceAvailable();
  return usable.ok() ? "usable" : std::string(usable.message());
}

nlohmann::json ToJson(const Gpus& gpus,
                      const std::vector<std::string>& transports) {
  nlohmann::json json = {{"event", "doctor"},
                         {"version", VersionText()},
                         {"transports", transports},
                         {"gpu_driver", gpus.text},
                         {"gpu_kernels", Kernels()},
                         {"gpus", nlohmann::json::array()},
                         {"gpu_links", nlohmann::json::array()},
                         {"rdma_ports", nlohmann::json::array()}};
  for (const memory::DeviceInfo& each : gpus.devices) {
    json["gpus"].push_back({{"device", each.device},
                            {"name", each.name},
                            {"bus_id", each.bus_id},
                            {"uuid", each.uuid},
                            {"bytes", each.total_bytes},
                            {"multiprocessors", each.num_multiprocessors}});
  }
  for (const Link& each : gpus.links) {
    json["gpu_links"].push_back(
        {{"from", each.from}, {"to", each.to}, {"kind", Words(each.link)}});
  }
  for (const topology::RdmaPort& port : topology::ListRdmaPorts("/sys")) {
    json["rdma_ports"].push_back({{"device", port.device},
                                  {"port", port.port},
                                  {"state", port.state_text}});
  }
  return json;
}

void Print(const Gpus& gpus, const std::vector<std::string>& transports) {
  PrintLine(VersionText());
  PrintLine(absl::StrCat("\nGPU driver: ", gpus.text));
  PrintLine(absl::StrCat("GPU kernels: ", Kernels()));
  std::vector<std::vector<std::string>> rows;
  for (const memory::DeviceInfo& each : gpus.devices) {
    rows.push_back({absl::StrCat("cuda:", each.device), each.name, each.bus_id,
                    HumanBytes(each.total_bytes),
                    absl::StrCat(each.num_multiprocessors),
                    absl::StrCat(each.major, ".", each.minor)});
  }
  if (!rows.empty()) {
    PrintLine(FormatTable({"GPU", "NAME", "BUS", "MEMORY", "SMS", "SM"}, rows));
  }
  for (const Link& each : gpus.links) {
    PrintLine(absl::StrCat("cuda:", each.from, " -> cuda:", each.to, ": ",
                           Words(each.link)));
  }
  PrintLine("\nTransports:");
  for (const std::string& each : transports) PrintLine("  " + each);
  const auto ports = topology::ListRdmaPorts("/sys");
  PrintLine(ports.empty() ? "RDMA ports: none" : "RDMA ports:");
  for (const topology::RdmaPort& port : ports) {
    PrintLine(
        absl::StrCat("  ", port.device, ":", port.port, " ", port.state_text));
  }
}

absl::Status Doctor(bool json) {
  WEFT_ASSIGN_OR_RETURN(const Gpus gpus, LookAtGpus());
  DeviceChoice device;
  if (!gpus.devices.empty()) {
    WEFT_ASSIGN_OR_RETURN(device, ChooseDevice("cuda"));
  }
  std::vector<std::string> transports;
  for (const char* name : {"cuda", "shm", "ucx"}) {
    if (std::string(name) == "cuda" && gpus.devices.empty()) continue;
    const auto made = MakeTransports(name, device);
    transports.push_back(
        made.ok()
            ? (*made)[0]->description()
            : absl::StrCat(name, ": ", std::string(made.status().message())));
  }
  // Found and not started: that needs its own UCX (decision 0018).
  const absl::StatusOr<std::string> nixl = transport::FindNixl();
  transports.push_back(
      nixl.ok() ? absl::StrCat(*nixl, ", --transport nixl")
                : absl::StrCat("nixl: ", std::string(nixl.status().message())));
  if (json) {
    PrintLine(ToJson(gpus, transports).dump());
  } else {
    Print(gpus, transports);
  }
  return absl::OkStatus();
}

}  // namespace

void AddDoctor(CLI::App& app, int* exit_code) {
  auto json = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand(
      "doctor", "Look at this machine: GPUs, links, transports, RDMA ports");
  command->add_flag("--json", *json, "print JSON");
  command->callback([json, exit_code] {
    const absl::Status status = Doctor(*json);
    *exit_code = status.ok() ? 0 : Fail("doctor", status, *json);
  });
}

}  // namespace weft::apps
