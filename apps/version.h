// "weft 0.1.0 (commit abc1234; gcc 12.2.0, ucx headers 1.13.1, ...)".
#ifndef WEFT_APPS_VERSION_H_
#define WEFT_APPS_VERSION_H_

#include <string>

namespace weft::apps {

std::string VersionText();

}  // namespace weft::apps

#endif  // WEFT_APPS_VERSION_H_
