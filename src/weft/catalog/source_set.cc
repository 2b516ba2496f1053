#include "weft/catalog/store.h"

namespace weft::catalog {

// SplitMix64's last step: generations that follow each other have terms that
// look random.
uint64_t SourceSetTerm(uint64_t generation) {
  uint64_t mixed = generation + 0x9e3779b97f4a7c15u;
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
  return mixed ^ (mixed >> 31);
}

uint64_t SourceSetOf(const std::vector<SourceRecord>& sources) {
  uint64_t sum = 0;
  for (const SourceRecord& source : sources) {
    sum += SourceSetTerm(source.generation);
  }
  return sum;
}

}  // namespace weft::catalog
