// StridedPieces as bytes, in the messages of transports that have a wire of
// their own.
#ifndef WEFT_TRANSPORT_PIECES_CODEC_H_
#define WEFT_TRANSPORT_PIECES_CODEC_H_

#include "weft/base/byte_codec.h"
#include "weft/transport/transport.h"

namespace weft::transport {

void WritePieces(const StridedPieces& pieces, base::ByteWriter& writer);
// What was written; the reader says whether there was enough. Nothing of it is
// checked against a region.
StridedPieces ReadPieces(base::ByteReader& reader);

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_PIECES_CODEC_H_
