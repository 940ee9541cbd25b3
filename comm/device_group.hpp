// What a communicator does on device memory. Internal to this room; no CUDA or NCCL type appears here. A build without
// CUDA links a factory that throws NotConfigured (device_group.stub.cpp); with CUDA, device_group.device.cpp.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.hpp"
#include "tensor/device.hpp"

namespace photon::comm {

struct Group;

// An operation that has begun; what a Pending holds.
class Started {
 public:
  virtual ~Started() = default;
  virtual bool done() = 0;
  virtual void wait() = 0;
};

// The ranks of a group, each with the GPU that is current when this is made. Operations are queued, on one stream of
// this group, behind what the compute stream held when they began; they return when they are queued. Views are checked.
class DeviceGroup {
 public:
  virtual ~DeviceGroup() = default;
  virtual std::shared_ptr<Started> all_reduce(const TensorView& data, Reduction op) = 0;
  virtual std::shared_ptr<Started> reduce_scatter(const ConstTensorView& all, const TensorView& mine, Reduction op) = 0;
  virtual std::shared_ptr<Started> all_gather(const ConstTensorView& mine, const TensorView& all) = 0;
  virtual std::shared_ptr<Started> all_to_all(const ConstTensorView& from, const TensorView& to) = 0;
  virtual std::shared_ptr<Started> broadcast(const TensorView& data, int root) = 0;
  virtual std::shared_ptr<Started> send(const ConstTensorView& data, int to, int tag) = 0;
  virtual std::shared_ptr<Started> receive(const TensorView& data, int from, int tag) = 0;
  // Waits, by polling, until everything that was queued here and on the compute stream is done.
  virtual void synchronize() = 0;
  // Throws what NCCL has found on its own threads.
  virtual void check() = 0;
};

// Collective over the ranks of `members`, whose host memory carries what they need to find each other. Messages between
// two ranks need `routes`: pairs (from, to) of ranks, equal on all ranks.
std::unique_ptr<DeviceGroup> make_device_group(const std::shared_ptr<Group>& group, Communicator& members,
                                               Stream compute, const std::vector<Route>& routes);

// What tells this process's GPU from others of its host.
std::string gpu_identity(int index);

}  // namespace photon::comm
