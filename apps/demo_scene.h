// One scene of the demo: a catalog, a trainer and its engines, each rank a
// process of its own, driven line by line.
#ifndef WEFT_APPS_DEMO_SCENE_H_
#define WEFT_APPS_DEMO_SCENE_H_

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "child_process.h"
#include "weft/recipe/recipe.h"

namespace weft::apps {

struct SceneOptions {
  std::string checkpoint;
  std::string model = "demo";
  std::string from;
  std::vector<std::string> to;
  std::string transport = "auto";
  std::string work_dir;
  int threads = 2;
  // "cpu" or "cuda": weights in the memory of GPUs, trainers on the first half
  // of them, engines on the second.
  std::string device = "cpu";
};

// What one engine rank reported for one version.
struct EngineResult {
  std::string layout;
  int64_t rank = 0;
  nlohmann::json report;  // the "refitted" line of `weft pull`
  std::string verified;   // sentence of `weft verify`
  bool ok = false;
};

class DemoScene {
 public:
  // Starts the catalog, all trainer ranks (which publish step 0) and all
  // engine ranks.
  static absl::StatusOr<std::unique_ptr<DemoScene>> Start(SceneOptions options);

  // Changes every weight in the trainer and publishes the next version.
  absl::Status Step();

  // Poisons, refits and saves every engine rank, then checks each file with
  // `weft verify`: recipe tables and a plain gather of the checkpoint.
  absl::StatusOr<std::vector<EngineResult>> RefitAll();

  // An engine behind a wire that flips one byte (or on a GPU, whose link cannot
  // be told to: a trainer in whose memory a byte changes unannounced): the
  // refit must be refused with the tensor's name and leave the receiver fenced;
  // the next one heals.
  struct FaultResult {
    std::string error;
    bool refused = false;  // kDataLoss that names a tensor
    bool fenced = false;   // and the receiver is fenced
    bool healed = false;   // the next refit commits and verifies
  };
  absl::StatusOr<FaultResult> FlipOneByte();

  absl::Status Stop();
  int step() const { return step_; }
  size_t num_trainers() const { return trainers_.size(); }
  size_t num_engines() const { return engines_.size(); }

 private:
  struct Engine {
    std::string layout;
    int64_t rank = 0;
    std::unique_ptr<ChildProcess> process;
  };
  explicit DemoScene(SceneOptions options) : options_(std::move(options)) {}
  // "cpu", or the GPU of the next trainer or engine.
  std::string DeviceFor(bool engine);
  absl::Status FlipAtTrainer();
  absl::Status StartCatalog();
  absl::Status StartTrainers();
  absl::Status StartEngines();
  absl::StatusOr<Engine> StartEngine(const std::string& layout, int64_t rank,
                                     bool faulty);
  absl::StatusOr<nlohmann::json> Ask(Engine& engine, const std::string& line);
  absl::Status SaveAndVerify(Engine& engine, EngineResult& result);

  SceneOptions options_;
  std::string address_;
  std::unique_ptr<ChildProcess> catalog_;
  std::vector<std::unique_ptr<ChildProcess>> trainers_;
  std::vector<Engine> engines_;
  int step_ = 0;
  int num_gpus_ = 0;
  int placed_[2] = {0, 0};  // trainers and engines that have a GPU
};

}  // namespace weft::apps

#endif  // WEFT_APPS_DEMO_SCENE_H_
