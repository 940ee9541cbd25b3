#include "trace/profiler_range.hpp"

#include <nvtx3/nvToolsExt.h>

namespace photon {

ProfilerRange::ProfilerRange(const std::string& name) {
  nvtxRangePushA(name.c_str());
}
ProfilerRange::~ProfilerRange() {
  nvtxRangePop();
}

}  // namespace photon
