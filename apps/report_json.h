// Reports of a session as JSON lines and as text for a person.
#ifndef WEFT_APPS_REPORT_JSON_H_
#define WEFT_APPS_REPORT_JSON_H_

#include <nlohmann/json.hpp>
#include <string>

#include "weft/session/publisher.h"
#include "weft/session/receiver.h"

namespace weft::apps {

nlohmann::json ToJson(const session::PublishReport& report, int64_t rank);
nlohmann::json ToJson(const session::RefitReport& report,
                      const plan::Plan& plan, int64_t rank);
nlohmann::json ToJson(const session::RollbackReport& report, int64_t rank);
// Several lines: version, plan, bytes, time, bound and ratio, digests, peers.
std::string FormatReport(const session::RefitReport& report,
                         const plan::Plan& plan);

}  // namespace weft::apps

#endif  // WEFT_APPS_REPORT_JSON_H_
