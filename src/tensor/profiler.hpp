// Marks for a profiler that watches this process from outside (ncu --profile-from-start off, nsys -c cudaProfilerApi).
#pragma once

namespace photon::device {

// The profiler, where there is one, records from here to stop_profiler(). Nothing happens without CUDA.
void start_profiler();
void stop_profiler();

}  // namespace photon::device
