// A folder that vanishes with the object; in memory if there is room.
#ifndef WEFT_APPS_WORK_DIR_H_
#define WEFT_APPS_WORK_DIR_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace weft::apps {

class WorkDir {
 public:
  // `prefix`: how its name begins, "weft_demo".
  static absl::StatusOr<std::unique_ptr<WorkDir>> Make(
      const std::string& prefix, uint64_t needed_bytes);
  ~WorkDir();
  WorkDir(const WorkDir&) = delete;
  WorkDir& operator=(const WorkDir&) = delete;
  const std::string& path() const { return path_; }
  // Even if somebody still makes files in it.
  static void Remove(const std::string& path);

 private:
  explicit WorkDir(std::string path);
  std::string path_;
};

}  // namespace weft::apps

#endif  // WEFT_APPS_WORK_DIR_H_
