// Layouts for a number of ranks: the one given, the fastest, the nearest that fits the memory.
#pragma once

#include <cstdint>
#include <vector>

#include "config/run_config.hpp"
#include "partition/cluster.hpp"
#include "partition/plan.hpp"

namespace photon {

// The layout that config.parallel gives, on all ranks of the cluster; microbatch_size 0 becomes the largest that fits,
// and `auto` what is faster and fits.
// Errors: InputError when it does not divide, or when a rank would need more memory than it has: that names the numbers
// and the nearest layout that fits.
Plan plan_given(const RunConfig& config, const Cluster& cluster);

// The layout of least predicted step time, over stages, cuts, shards, replicas and microbatch sizes, that fits.
// Of config.parallel only `zero`, `recompute` and `split_backward` are read. Errors: InputError when none fits.
ParallelConfig fastest_layout(const RunConfig& config, const Cluster& cluster);

// Whether a plan that does not split its backward would take at least one percent less time a step if it did, and
// fit.
bool splitting_pays(const RunConfig& config, const Cluster& cluster, const Plan& plan);

// "--set parallel.stages=2 --set parallel.shards=3 ..."
std::string settings_text(const ParallelConfig& parallel);

}  // namespace photon
