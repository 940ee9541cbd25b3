// One NCCL communicator with its stream. Internal to this room; only *.device.cpp includes it.
#pragma once

#include <cuda_runtime.h>
#include <nccl.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "comm/device_group.hpp"
#include "comm/impl.hpp"

namespace photon::comm {

using Event = std::shared_ptr<CUevent_st>;
// Marks what the stream holds now.
Event record(cudaStream_t stream);

// The ranks of a group, or two of them. NCCL is told never to block: its calls return at once, and its state is polled
// like everything else here, with deadlines. When one passes, or NCCL reports an error, the communicator is aborted,
// which ends its kernels on this GPU, and the Error names rank, host, operation and phase.
class NcclLink {
 public:
  // Collective over the `size` ranks that hold the same id. max_blocks: thread blocks a kernel may take; 0: NCCL's
  // choice.
  NcclLink(std::shared_ptr<Group> group, const ncclUniqueId& id, int rank, int size, int max_blocks);
  ~NcclLink();
  NcclLink(const NcclLink&) = delete;
  NcclLink& operator=(const NcclLink&) = delete;

  ncclComm_t handle() const { return comm_; }
  cudaStream_t stream() const { return stream_; }

  // Queues what `call` asks NCCL for, behind what `compute` holds now. peer and tag are for the log.
  std::shared_ptr<Started> queue(const std::string& operation, std::int64_t bytes, int peer, int tag,
                                 cudaStream_t compute, const std::function<ncclResult_t()>& call);
  // Polls until `event` is done. Errors: Error, and the communicator is aborted.
  void wait_for(const Event& event);
  // Waits for a stream by polling, with all links of this process in view: what device::set_wait() takes.
  static void wait_for_stream(Stream stream);
  // Throws what NCCL found on its own threads.
  void check_state(const std::string& operation);

 private:
  void settle(ncclResult_t result, const std::string& operation);  // waits while NCCL says "in progress"
  void check(ncclResult_t result, const std::string& operation);
  void poll_until(const std::string& operation, const std::function<bool()>& done);
  void abort() noexcept;
  static std::vector<NcclLink*>& all();
  void forget_finished();

  struct Queued {
    std::uint64_t number;  // in the log
    std::string operation;
    Event event;
  };

  std::shared_ptr<Group> group_;
  ncclComm_t comm_ = nullptr;  // null: aborted
  cudaStream_t stream_ = nullptr;
  std::deque<Queued> queued_;  // oldest first: what is not known to have finished
};

}  // namespace photon::comm
