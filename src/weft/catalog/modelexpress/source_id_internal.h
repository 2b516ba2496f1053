// The id under which ModelExpress knows all workers of one identity.
#ifndef WEFT_CATALOG_MODELEXPRESS_SOURCE_ID_INTERNAL_H_
#define WEFT_CATALOG_MODELEXPRESS_SOURCE_ID_INTERNAL_H_

#include <string>

#include "modelexpress_p2p.pb.h"

namespace weft::catalog {

// 16 hexadecimal digits of the SHA-256 of the identity's canonical text:
// sorted JSON without spaces, letters in lower case. Only ASCII letters are
// lowered, and other characters are written as they are, not escaped.
std::string ModelExpressSourceId(
    const ::model_express::p2p::SourceIdentity& identity);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_MODELEXPRESS_SOURCE_ID_INTERNAL_H_
