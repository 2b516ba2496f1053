// Structs of store.h as bytes. The readers leave checking to base::ByteReader
// and to their callers.
#ifndef WEFT_CATALOG_STATE_FIELD_CODEC_H_
#define WEFT_CATALOG_STATE_FIELD_CODEC_H_

#include <cstdint>

#include "weft/base/byte_codec.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

// A sum of two times up to here does not overflow.
inline constexpr int64_t kLastTimeNs = int64_t{1} << 62;
// The last that a clock may show: what then lasts for up to a year, a lease or
// a registration, ends at a time that can be written.
inline constexpr int64_t kLastClockNs = kLastTimeNs - (int64_t{1} << 55);

void Write(const VersionId& version, base::ByteWriter& writer);
VersionId ReadVersionId(base::ByteReader& reader);

void Write(const Labels& labels, base::ByteWriter& writer);
// Fails the reader unless their names ascend.
Labels ReadLabels(base::ByteReader& reader);

void Write(const WorkerInfo& info, base::ByteWriter& writer);
// Fails the reader unless the role is one.
WorkerInfo ReadWorkerInfo(base::ByteReader& reader);

// Fails the reader unless it is 0 or 1.
bool ReadFlag(base::ByteReader& reader);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_STATE_FIELD_CODEC_H_
