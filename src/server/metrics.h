// What a service and its server count, as Prometheus reads it (text format 0.0.4): under names of its own and
// those that dashboards for vLLM ask for.
#pragma once

#include <string>
#include <string_view>

#include "server/request_counts.h"
#include "shadowkv/service.h"

namespace shadowkv {

[[nodiscard]] std::string metrics_text(const ServiceStatistics& statistics, const RequestCounts& requests,
                                       std::string_view model);

}  // namespace shadowkv
