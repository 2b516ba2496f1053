// Any bytes as a snapshot (the first four say how long it is), then as entries
// of the log, each after two bytes for its length: nothing may crash, hang or
// trip a sanitizer, and a snapshot that is taken encodes to one that is taken.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "weft/catalog/state/replica.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  using weft::catalog::Replica;
  const weft::catalog::StateOptions options{.first_number = 1};
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  const auto take = [&rest](std::size_t length_bytes) {
    std::size_t length = 0;
    for (std::size_t i = 0; i < length_bytes && i < rest.size(); ++i) {
      length |= static_cast<std::size_t>(static_cast<uint8_t>(rest[i]))
                << (8 * i);
    }
    rest.remove_prefix(std::min(length_bytes, rest.size()));
    const std::string_view taken = rest.substr(0, length);
    rest.remove_prefix(taken.size());
    return taken;
  };
  std::optional<Replica> replica(Replica{options});
  if (auto decoded = Replica::Decode(take(4), options); decoded.ok()) {
    replica.emplace(*std::move(decoded));
  }
  while (!rest.empty()) replica->Apply(take(2));
  if (!Replica::Decode(replica->Encode(), options).ok()) std::abort();
  return 0;
}
