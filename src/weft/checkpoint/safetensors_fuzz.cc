// libFuzzer target over the header parser (configure with WEFT_FUZZ=ON):
//   fuzz_safetensors tests/fuzz_corpus/safetensors
// Accepted input must hold what readers rely on: the tensors tile the data.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "weft/checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t bytes) {
  const std::string_view file(reinterpret_cast<const char*>(data), bytes);
  const absl::StatusOr<weft::checkpoint::ParsedHeader> header =
      weft::checkpoint::ParseSafetensorsHeader(file,
                                               static_cast<int64_t>(bytes));
  if (!header.ok()) return 0;
  int64_t end_bytes = 0;
  for (const weft::checkpoint::TensorEntry& entry : header->tensors) {
    if (entry.begin_bytes != end_bytes) std::abort();
    if (entry.end_bytes < entry.begin_bytes) std::abort();
    end_bytes = entry.end_bytes;
  }
  if (header->data_begin_bytes + end_bytes != static_cast<int64_t>(bytes)) {
    std::abort();
  }
  return 0;
}
