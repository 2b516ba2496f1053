#include "weft/base/run_threads.h"

#include <algorithm>
#include <system_error>
#include <thread>
#include <vector>

namespace weft::base {

void RunThreads(int num_threads, size_t num_items,
                absl::FunctionRef<void()> work) {
  std::vector<std::thread> helpers;
  const size_t wanted =
      std::min(num_items, static_cast<size_t>(std::max(num_threads, 1)));
  for (size_t i = 1; i < wanted; ++i) {
    try {
      helpers.emplace_back(work);
    } catch (const std::system_error&) {
      break;
    }
  }
  work();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace weft::base
