#include "trace/profiler_range.hpp"

namespace photon {

ProfilerRange::ProfilerRange(const std::string& /*name*/) {}
ProfilerRange::~ProfilerRange() = default;

}  // namespace photon
