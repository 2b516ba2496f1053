// Any bytes as a token file: refused, or a table that finds no token that is
// not in it; and no error shows what may be one.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "weft/catalog/access/tokens.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto table = weft::catalog::TokenTable::Parse(text);
  if (!table.ok()) return 0;
  if (table->entries().empty()) std::abort();
  for (const auto& entry : table->entries()) {
    if (entry.roles == 0 || entry.digest_hex.size() != 64) std::abort();
  }
  if (table->Find("a token that has spaces") != nullptr) std::abort();
  return 0;
}
