// The whole-fleet plan as one HTML page that needs nothing else.
#ifndef WEFT_APPS_FLEET_HTML_H_
#define WEFT_APPS_FLEET_HTML_H_

#include <string>

#include "fleet_report.h"
#include "plan_job.h"

namespace weft::apps {

// What FormatFleet says, a heat map of bytes from each trainer rank to each
// engine rank, and, if the refit was simulated, how long each port is busy.
// Ranks are put together in equal groups where there are more than 128.
std::string FleetHtml(const PlanJob& job, const FleetResult& result);

}  // namespace weft::apps

#endif  // WEFT_APPS_FLEET_HTML_H_
