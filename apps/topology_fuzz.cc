// libFuzzer target: the file of `weft plan --topology`.
#include <cstddef>
#include <cstdint>
#include <string>

#include "topology_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  (void)weft::apps::ParseTopology(
      std::string(reinterpret_cast<const char*>(data), size), "fuzz.yaml",
      /*num_trainers=*/8, /*num_engines=*/4);
  return 0;
}
