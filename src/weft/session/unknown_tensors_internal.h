// What is published and a receiver's model does not know.
#ifndef WEFT_SESSION_UNKNOWN_TENSORS_INTERNAL_H_
#define WEFT_SESSION_UNKNOWN_TENSORS_INTERNAL_H_

#include <cstddef>
#include <set>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "weft/session/source_choice_internal.h"

namespace weft::session {

struct UnknownTensors {
  std::size_t published = 0;  // logical tensors of all sources
  // In modules that the model has: it would be served without a part of itself.
  std::set<std::string> parts;
  // In modules of their own: a head for values, or the layers of a deeper
  // model. Which of the two cannot be told.
  std::set<std::string> others;
};

// `known_tensors`: of ReceiverOptions; nothing is unknown if it is empty.
UnknownTensors FindUnknownTensors(const std::vector<std::string>& known_tensors,
                                  absl::Span<const ChosenSource> sources);

// A sentence of how many others there are; empty without any.
std::string DescribeOthers(const UnknownTensors& unknown);

}  // namespace weft::session

#endif  // WEFT_SESSION_UNKNOWN_TENSORS_INTERNAL_H_
