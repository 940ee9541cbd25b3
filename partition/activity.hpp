// What the time of an instruction counts as, in measurements and timelines.
#pragma once

#include <cstdint>
#include <string_view>

#include "partition/schedule.hpp"

namespace photon {

enum class Activity : std::uint8_t {
  compute,        // passes and the optimizer's update
  wait,           // until a message or other ranks arrive
  communication,  // sums over ranks once all are there, and handing over messages
  other,          // evaluation and saving
};

std::string_view name_of(Activity activity);  // "compute", ...

// Of a collective: communication, though its ranks may wait for each other in it first.
Activity activity_of(Op op);

}  // namespace photon
