#include "topology_file.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "weft/base/read_file.h"
#include "weft/base/status.h"
#include "yaml-cpp/depthguard.h"
#include "yaml-cpp/yaml.h"

namespace weft::apps {
namespace {

using Place = plan::FleetTopology::Place;

constexpr int64_t kMaxNodes = int64_t{1} << 20;
constexpr int64_t kMaxRanks = int64_t{1} << 24;
constexpr size_t kMaxListedRanks = 8;

class TopologyReader {
 public:
  explicit TopologyReader(std::string file_name)
      : file_name_(std::move(file_name)) {}

  absl::StatusOr<plan::FleetTopology> Read(const YAML::Node& root,
                                           int64_t num_trainers,
                                           int64_t num_engines) {
    if (!root.IsMap()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file_name_, ": expected a mapping with \"nodes\""));
    }
    CheckKeys(root, {"nodes", "latency_us", "rails", "spine_gbs"});
    topology_.latency_seconds = Number(root, "latency_us", 5) * 1e-6;
    topology_.spine_bytes_per_second = Number(root, "spine_gbs", 0) * 1e9;
    ReadRails(root);
    topology_.trainers.assign(static_cast<size_t>(num_trainers), {-1, -1});
    topology_.engines.assign(static_cast<size_t>(num_engines), {-1, -1});
    const YAML::Node nodes = root["nodes"];
    if (!nodes || !nodes.IsSequence() || nodes.size() == 0) {
      Fault(root, "nodes: expected a list of groups of nodes");
    } else {
      for (const YAML::Node& group : nodes) ReadGroup(group);
      CheckAllPlaced("trainer", topology_.trainers);
      CheckAllPlaced("engine", topology_.engines);
    }
    WEFT_RETURN_IF_ERROR(faults_.ToStatus(absl::StatusCode::kInvalidArgument));
    WEFT_RETURN_IF_ERROR(base::Annotate(topology_.Check(), file_name_));
    return std::move(topology_);
  }

 private:
  void Fault(const YAML::Node& node, std::string_view what) {
    faults_.Add(absl::StrCat(file_name_, ":", node.Mark().line + 1, ": ",
                             std::string(what)));
  }

  void CheckKeys(const YAML::Node& map, const std::vector<std::string>& known) {
    std::set<std::string> given;
    for (const auto& entry : map) {
      const std::string key = entry.first.as<std::string>("");
      // The parser would take the first and drop the others.
      if (!given.insert(key).second) {
        Fault(entry.first, absl::StrCat("key \"", key, "\" is given twice"));
      }
      if (std::find(known.begin(), known.end(), key) == known.end()) {
        Fault(entry.first, absl::StrCat("unknown key \"", key, "\"; known are ",
                                        absl::StrJoin(known, ", ")));
      }
    }
  }

  double Number(const YAML::Node& map, const char* key, double otherwise) {
    const YAML::Node node = map[key];
    if (!node) return otherwise;
    double value = 0;
    if (!node.IsScalar() || !absl::SimpleAtod(node.Scalar(), &value)) {
      Fault(node, absl::StrCat(key, ": expected a number"));
    }
    return value;
  }

  int64_t Count(const YAML::Node& map, const char* key, int64_t otherwise) {
    const YAML::Node node = map[key];
    if (!node) return otherwise;
    int64_t value = 0;
    if (!node.IsScalar() || !absl::SimpleAtoi(node.Scalar(), &value) ||
        value < 1 || value > kMaxNodes) {
      Fault(node, absl::StrCat(key, ": expected a whole number from 1 to ",
                               kMaxNodes));
      return otherwise;
    }
    return value;
  }

  void ReadRails(const YAML::Node& root) {
    const YAML::Node node = root["rails"];
    if (!node) return;
    try {
      topology_.rails = node.as<bool>();
    } catch (const YAML::Exception&) {
      Fault(node, "rails: expected true or false");
    }
  }

  void ReadGroup(const YAML::Node& group) {
    if (!group.IsMap()) return Fault(group, "a node: expected a mapping");
    CheckKeys(group, {"name", "count", "gpus", "nics", "nic_gbs", "nvlink_gbs",
                      "trainer", "engine"});
    plan::FleetNode node;
    const auto first = static_cast<int64_t>(topology_.nodes.size());
    const int64_t count = Count(group, "count", 1);
    node.num_gpus = Count(group, "gpus", node.num_gpus);
    node.num_nics = Count(group, "nics", node.num_gpus);
    node.nic_bytes_per_second = Number(group, "nic_gbs", 50) * 1e9;
    node.nvlink_bytes_per_second = Number(group, "nvlink_gbs", 450) * 1e9;
    std::string name = absl::StrCat("node ", first);
    if (const YAML::Node given = group["name"]) {
      if (!given.IsScalar()) Fault(given, "name: expected a word");
      name = given.as<std::string>("");
    }
    if (first + count > kMaxNodes) {
      return Fault(group, absl::StrCat("more than ", kMaxNodes, " nodes"));
    }
    for (int64_t i = 0; i < count; ++i) {
      node.name = count == 1 ? name : absl::StrCat(name, " ", i);
      topology_.nodes.push_back(node);
    }
    PlaceRanks(group, "trainer", first, count, node.num_gpus,
               topology_.trainers);
    PlaceRanks(group, "engine", first, count, node.num_gpus, topology_.engines);
  }

  // The ranks that `group` names under `key`, GPU by GPU and node by node.
  void PlaceRanks(const YAML::Node& group, const char* key, int64_t first_node,
                  int64_t num_nodes, int64_t num_gpus,
                  std::vector<Place>& places) {
    const YAML::Node node = group[key];
    if (!node) return;
    const std::optional<std::vector<int64_t>> ranks = Ranks(node);
    if (!ranks.has_value()) {
      return Fault(node, absl::StrCat(key,
                                      ": expected ranks such as 0-7 or "
                                      "\"0-3,8\" or [0, 1]"));
    }
    if (static_cast<int64_t>(ranks->size()) > num_nodes * num_gpus) {
      return Fault(node, absl::StrCat(key, ": ", ranks->size(), " ranks for ",
                                      num_nodes * num_gpus, " GPUs"));
    }
    // One fault for all of a kind: a file may name millions.
    std::vector<int64_t> beyond;
    std::vector<int64_t> placed;
    for (size_t i = 0; i < ranks->size(); ++i) {
      const int64_t rank = (*ranks)[i];
      if (rank >= static_cast<int64_t>(places.size())) {
        beyond.push_back(rank);
        continue;
      }
      Place& place = places[static_cast<size_t>(rank)];
      if (place.node >= 0) placed.push_back(rank);
      const auto gpu = static_cast<int64_t>(i);
      place = {static_cast<int32_t>(first_node + gpu / num_gpus),
               static_cast<int32_t>(gpu % num_gpus)};
    }
    if (!beyond.empty()) {
      Fault(node, absl::StrCat(Listed(key, beyond), " not below the ",
                               places.size(), " of the layout"));
    }
    if (!placed.empty()) {
      Fault(node, absl::StrCat(Listed(key, placed), " placed more than once"));
    }
  }

  // "trainer rank 3 is", "trainer ranks 3, 4 and 12 more are".
  static std::string Listed(const char* key, std::vector<int64_t> ranks) {
    const size_t count = ranks.size();
    ranks.resize(std::min(count, kMaxListedRanks));
    const size_t more = count - ranks.size();
    return absl::StrCat(key, count == 1 ? " rank " : " ranks ",
                        absl::StrJoin(ranks, ", "),
                        more > 0 ? absl::StrCat(" and ", more, " more") : "",
                        count == 1 ? " is" : " are");
  }

  static std::optional<std::vector<int64_t>> Ranks(const YAML::Node& node) {
    std::vector<int64_t> ranks;
    if (node.IsScalar()) {
      const std::vector<std::string> parts = absl::StrSplit(node.Scalar(), ',');
      for (const std::string& part : parts) {
        if (!AddRange(part, ranks)) return std::nullopt;
      }
      return ranks;
    }
    if (!node.IsSequence()) return std::nullopt;
    for (const YAML::Node& each : node) {
      if (!each.IsScalar() || !AddRange(each.Scalar(), ranks)) {
        return std::nullopt;
      }
    }
    return ranks;
  }

  // "3" or "3-9".
  static bool AddRange(const std::string& text, std::vector<int64_t>& ranks) {
    const std::vector<std::string> ends = absl::StrSplit(text, '-');
    int64_t first = 0;
    int64_t last = 0;
    if (ends.size() > 2 || !absl::SimpleAtoi(ends.front(), &first) ||
        !absl::SimpleAtoi(ends.back(), &last) || first < 0 || last < first ||
        last - first + static_cast<int64_t>(ranks.size()) >= kMaxRanks) {
      return false;
    }
    for (int64_t rank = first; rank <= last; ++rank) ranks.push_back(rank);
    return true;
  }

  void CheckAllPlaced(const char* side, const std::vector<Place>& places) {
    std::vector<size_t> missing;
    for (size_t rank = 0; rank < places.size(); ++rank) {
      if (places[rank].node < 0) missing.push_back(rank);
    }
    if (missing.empty()) return;
    const size_t count = missing.size();
    missing.resize(std::min(count, kMaxListedRanks));
    faults_.Add(absl::StrCat(file_name_, ": no place for ", count, " of ",
                             places.size(), " ", side,
                             " ranks: ", absl::StrJoin(missing, ","),
                             count > missing.size() ? ",..." : ""));
  }

  const std::string file_name_;
  plan::FleetTopology topology_;
  base::FaultList faults_;
};

// The parser reads the first document of a file and drops the others. A line
// that begins so is never content, not even of quoted text.
absl::Status CheckOneDocument(const std::string& text) {
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  bool has_content = false;
  bool is_next = false;  // document
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string& line = lines[i];
    if (line.starts_with("---") || line.starts_with("...")) {
      is_next = has_content;
      continue;
    }
    const size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string::npos || line[first] == '#') continue;
    if (is_next) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", i + 1, ": a second YAML document"));
    }
    has_content |= line[0] != '%';  // a directive
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<plan::FleetTopology> ParseTopology(const std::string& text,
                                                  const std::string& file_name,
                                                  int64_t num_trainers,
                                                  int64_t num_engines) {
  try {
    WEFT_RETURN_IF_ERROR(base::Annotate(CheckOneDocument(text), file_name));
    return TopologyReader(file_name).Read(YAML::Load(text), num_trainers,
                                          num_engines);
  } catch (const YAML::DeepRecursion&) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ": nested too deep"));
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ":", error.mark.line + 1, ": ", error.msg));
  }
}

absl::StatusOr<plan::FleetTopology> LoadTopology(const std::string& path,
                                                 int64_t num_trainers,
                                                 int64_t num_engines) {
  WEFT_ASSIGN_OR_RETURN(const std::string text, base::ReadFile(path));
  const size_t slash = path.rfind('/');
  return ParseTopology(
      text, slash == std::string::npos ? path : path.substr(slash + 1),
      num_trainers, num_engines);
}

}  // namespace weft::apps
