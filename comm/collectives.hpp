// Collective operations on host memory as pieces of exchanges. Internal to this room. The views are checked, the group
// has several ranks.
#pragma once

#include <memory>

#include "comm/impl.hpp"

namespace photon::comm {

std::shared_ptr<Operation> make_all_reduce(const std::shared_ptr<Group>& group, const TensorView& data, Reduction op);
std::shared_ptr<Operation> make_reduce_scatter(const std::shared_ptr<Group>& group, const ConstTensorView& all,
                                               const TensorView& mine, Reduction op);
std::shared_ptr<Operation> make_all_gather(const std::shared_ptr<Group>& group, const ConstTensorView& mine,
                                           const TensorView& all);
std::shared_ptr<Operation> make_all_to_all(const std::shared_ptr<Group>& group, const ConstTensorView& from,
                                           const TensorView& to);
std::shared_ptr<Operation> make_broadcast(const std::shared_ptr<Group>& group, const TensorView& data, int root);
std::shared_ptr<Operation> make_barrier(const std::shared_ptr<Group>& group);

}  // namespace photon::comm
