// A program for NIXL runs with the UCX of NIXL: see decision 0018.
#ifndef WEFT_APPS_ONE_UCX_H_
#define WEFT_APPS_ONE_UCX_H_

#include "absl/status/status.h"

namespace weft::apps {

// When the command line asks for the transport nixl and this process has
// loaded another UCX than NIXL's, starts the program again with NIXL's in its
// place and does not return. OK when nothing is in the way, or when there is
// no NIXL: who asks for it hears that later, with the reason.
absl::Status KeepOneUcx(int argc, char** argv);

}  // namespace weft::apps

#endif  // WEFT_APPS_ONE_UCX_H_
