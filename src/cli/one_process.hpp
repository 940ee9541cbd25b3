// What the commands that use a model share.
#pragma once

#include <functional>
#include <string>

#include "tensor/context.hpp"

namespace photon::cli {

// Calls `work` with logging set up. Errors: InputError when a launcher started several ranks, which these commands do
// not share work between.
void run_in_one_process(const std::string& command, const std::function<void()>& work);

// Throws Preempted once a signal asked to stop; needs a StopSignal alive.
void throw_if_stopped(const std::string& what_is_kept);

// The context of this machine for "deterministic" or "tuned" numerics.
Context host_context(const std::string& numerics);

}  // namespace photon::cli
