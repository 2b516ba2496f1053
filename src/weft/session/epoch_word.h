// The epoch word: 8 bytes in a publisher's registered memory that say which
// version the weights beside it are. A receiver reads it before and after the
// transfer: if both reads give the word of the version that it asked for, no
// update began in between.
//
//   odd                          the memory is changing: never read it
//   EpochWord(run:epoch:step)    even, a 63-bit hash of the version
//
// Two versions share a word with probability 2^-63.
#ifndef WEFT_SESSION_EPOCH_WORD_H_
#define WEFT_SESSION_EPOCH_WORD_H_

#include <cstdint>

#include "weft/catalog/store.h"

namespace weft::session {

inline constexpr uint64_t kUpdatingWord = 1;

uint64_t EpochWord(const catalog::VersionId& version);

// Seed of the digest weights of a version (convert/digest.h).
uint64_t DigestSeed(const catalog::VersionId& version);

}  // namespace weft::session

#endif  // WEFT_SESSION_EPOCH_WORD_H_
