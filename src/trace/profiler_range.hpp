// A named range on this thread for NVIDIA's profilers (nsys, ncu), between construction and destruction. Free of charge
// where no profiler is attached; builds without CUDA have none.
#pragma once

#include <string>

namespace photon {

class ProfilerRange {
 public:
  explicit ProfilerRange(const std::string& name);
  ~ProfilerRange();
  ProfilerRange(const ProfilerRange&) = delete;
  ProfilerRange& operator=(const ProfilerRange&) = delete;
};

}  // namespace photon
