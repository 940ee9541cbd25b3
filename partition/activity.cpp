#include "partition/activity.hpp"

namespace photon {

std::string_view name_of(Activity activity) {
  switch (activity) {
    case Activity::compute:
      return "compute";
    case Activity::wait:
      return "wait";
    case Activity::communication:
      return "communication";
    case Activity::other:
      return "other";
  }
  return "?";
}

Activity activity_of(Op op) {
  switch (op) {
    case Op::forward:
    case Op::backward:
    case Op::backward_input:
    case Op::backward_weight:
    case Op::step:
      return Activity::compute;
    case Op::receive:
      return Activity::wait;
    case Op::send:
    case Op::all_reduce:
    case Op::reduce_scatter:
    case Op::all_gather:
    case Op::wait:
    case Op::clip_norm:
      return Activity::communication;
    case Op::evaluate:
    case Op::save:
      return Activity::other;
  }
  return Activity::other;
}

}  // namespace photon
