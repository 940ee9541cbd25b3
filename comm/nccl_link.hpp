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
// Marks what the stream holds now. Events are used again when nobody holds them.
Event record(cudaStream_t stream);

// The ranks of a group, or two of them that exchange messages. No call of NCCL may block without a limit:
//
// - Collective operations are polled: NCCL carries each call out on a thread of its own and is asked until that is
// done.
//   The first one of a kind connects ranks, so it waits for them.
// - Messages are direct: their two ranks are connected when the link is made, after which a call waits for nobody, and
//   queues its kernel at once. A thread and its polling would cost several times what the message does. Only making and
//   ending such a link blocks, on a thread that is polled.
//
// Polling has deadlines, as everything here. When one passes, or NCCL reports an error, the communicator is aborted,
// which ends its kernels on this GPU, and the Error names rank, host, operation and phase.
class NcclLink {
 public:
  enum class Calls : std::uint8_t { polled, direct };

  // Collective over the `size` ranks that hold the same id. max_blocks: thread blocks a kernel may take; 0: NCCL's
  // choice. Direct calls are for two ranks, of which 0 sends and 1 receives.
  NcclLink(std::shared_ptr<Group> group, const ncclUniqueId& id, int rank, int size, Calls calls, int max_blocks);
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
  // Polls until the GPU has reached a point, with all links of this process in view: what device::set_wait() takes.
  static void wait_until(const std::function<bool()>& reached);
  // Throws what NCCL found on its own threads.
  void check_state(const std::string& operation);

 private:
  void settle(ncclResult_t result, const std::string& operation);  // waits while NCCL says "in progress"
  // A call that blocks, on a thread; what it works on must be its own, since the thread is left behind at a deadline.
  void run_beside(const std::string& operation, const std::function<ncclResult_t()>& call);
  void set_up(const ncclUniqueId& id, int rank, int size, ncclConfig_t config);
  void connect(const ncclUniqueId& id, int rank, ncclConfig_t config);
  void end();
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
  Calls calls_;
  ncclComm_t comm_ = nullptr;  // null: aborted
  cudaStream_t stream_ = nullptr;
  std::deque<Queued> queued_;  // oldest first: what is not known to have finished
};

}  // namespace photon::comm
