#include "comm/nccl_link.hpp"

#include <atomic>
#include <csignal>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "tensor/buffer.hpp"
#include "tensor/cuda_check.hpp"

namespace photon::comm {
namespace {

// An event that a kernel of NCCL, or work behind one, must reach.
class Polled : public Progress {
 public:
  Polled(const Group& group, std::string operation, const std::function<bool()>& done)
      : group_(group), operation_(std::move(operation)), done_(done) {}
  bool advance() override { return done_(); }
  std::string missing() const override { return {}; }  // NCCL does not tell
  std::string describe() const override { return group_.describe(operation_, "did not finish"); }

 private:
  const Group& group_;
  std::string operation_;
  const std::function<bool()>& done_;
};

class QueuedOperation : public Started {
 public:
  QueuedOperation(NcclLink& link, std::string operation, Event event, cudaStream_t compute)
      : link_(link), operation_(std::move(operation)), event_(std::move(event)), compute_(compute) {}
  bool done() override {
    const cudaError_t result = cudaEventQuery(event_.get());
    if (result == cudaSuccess) return true;
    if (result != cudaErrorNotReady) PHOTON_CUDA_CHECK(result);
    link_.check_state(operation_);
    return false;
  }
  void wait() override {
    link_.check_state(operation_);
    PHOTON_CUDA_CHECK(cudaStreamWaitEvent(compute_, event_.get(), 0));
  }

 private:
  NcclLink& link_;
  std::string operation_;
  Event event_;
  cudaStream_t compute_;
};

}  // namespace

Event record(cudaStream_t stream) {
  static auto& free_events = *new std::vector<cudaEvent_t>;  // for ever: whoever holds an event may outlive statics
  cudaEvent_t event = nullptr;
  if (free_events.empty()) {
    PHOTON_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  } else {
    event = free_events.back();
    free_events.pop_back();
  }
  Event owned(event, [](cudaEvent_t e) { free_events.push_back(e); });
  PHOTON_CUDA_CHECK(cudaEventRecord(event, stream));
  return owned;
}

NcclLink::NcclLink(std::shared_ptr<Group> group, const ncclUniqueId& id, int rank, int size, Calls calls,
                   int max_blocks)
    : group_(std::move(group)), calls_(calls) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = calls == Calls::direct ? 1 : 0;
  if (max_blocks > 0) {
    config.minCTAs = 1;
    config.maxCTAs = max_blocks;
  }
  PHOTON_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  const std::uint64_t number = group_->job->log.begin("NCCL set-up", group_->name, 0, -1, -1, group_->job->phase.name);
  if (calls == Calls::direct) {
    connect(id, rank, config);
  } else {
    set_up(id, rank, size, config);
  }
  group_->job->log.end(number);
  all().push_back(this);
  device::set_wait(&NcclLink::wait_until);
}

void NcclLink::set_up(const ncclUniqueId& id, int rank, int size, ncclConfig_t config) {
  try {
    settle(ncclCommInitRankConfig(&comm_, size, id, rank, &config), "NCCL set-up");
  } catch (...) {
    abort();
    (void)cudaStreamDestroy(stream_);
    throw;
  }
}

// NCCL connects two ranks when their first message is queued, and needs both there. Done here, later messages are
// queued without waiting for the other rank.
void NcclLink::connect(const ncclUniqueId& id, int rank, ncclConfig_t config) {
  struct Made {
    ncclComm_t comm = nullptr;
    ncclConfig_t config;
    Buffer first{Space::device, Arena::alignment, "the first message of a route"};
  };
  const auto made = std::make_shared<Made>();
  made->config = config;
  run_beside("NCCL set-up", [made, id, rank, stream = stream_] {
    const ncclResult_t result = ncclCommInitRankConfig(&made->comm, 2, id, rank, &made->config);
    if (result != ncclSuccess) return result;
    return rank == 0 ? ncclSend(made->first.data(), 1, ncclUint8, 1, made->comm, stream)
                     : ncclRecv(made->first.data(), 1, ncclUint8, 0, made->comm, stream);
  });
  comm_ = made->comm;
  wait_for(record(stream_));
}

void NcclLink::run_beside(const std::string& operation, const std::function<ncclResult_t()>& call) {
  struct Beside {
    std::atomic<bool> done{false};
    ncclResult_t result = ncclSuccess;
  };
  const auto state = std::make_shared<Beside>();
  int gpu = 0;
  PHOTON_CUDA_CHECK(cudaGetDevice(&gpu));
  sigset_t every, before;  // signals are the main thread's
  sigfillset(&every);
  pthread_sigmask(SIG_SETMASK, &every, &before);
  std::thread thread([state, gpu, call] {
    state->result = cudaSetDevice(gpu) == cudaSuccess ? call() : ncclUnhandledCudaError;
    state->done.store(true, std::memory_order_release);
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  try {
    poll_until(operation, [&] { return state->done.load(std::memory_order_acquire); });
  } catch (...) {
    thread.detach();  // the process ends: nobody may go on after this
    throw;
  }
  thread.join();
  check(state->result, operation);
}

std::vector<NcclLink*>& NcclLink::all() {
  static std::vector<NcclLink*> links;
  return links;
}

NcclLink::~NcclLink() {
  std::erase(all(), this);
  if (all().empty()) device::set_wait(nullptr);
  if (comm_ != nullptr && std::uncaught_exceptions() == 0) {
    try {
      end();
    } catch (const std::exception&) {
      // The job ends anyhow; what cannot end in order is aborted below.
    }
  }
  abort();
  (void)cudaStreamDestroy(stream_);
}

void NcclLink::end() {
  const ncclComm_t comm = comm_;
  if (calls_ == Calls::direct) {
    comm_ = nullptr;  // the thread's, whatever happens
    run_beside("NCCL end", [comm] {
      const ncclResult_t result = ncclCommFinalize(comm);
      return result == ncclSuccess ? ncclCommDestroy(comm) : result;
    });
    return;
  }
  settle(ncclCommFinalize(comm), "NCCL end");
  comm_ = nullptr;
  (void)ncclCommDestroy(comm);
}

void NcclLink::abort() noexcept {
  if (comm_ == nullptr) return;
  const ncclComm_t comm = std::exchange(comm_, nullptr);
  try {
    const Watchdog watchdog = group_->job->limit("NCCL abort");
    (void)ncclCommAbort(comm);
  } catch (...) {
    (void)ncclCommAbort(comm);
  }
}

void NcclLink::check(ncclResult_t result, const std::string& operation) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  const char* detail = comm_ == nullptr ? nullptr : ncclGetLastError(comm_);
  std::string why = fmt::format("NCCL: {}", ncclGetErrorString(result));
  if (detail != nullptr && *detail != '\0') why += fmt::format(": {}", detail);
  abort();
  throw RankError(group_->describe(operation, "failed"), why,
                  "see what the other ranks report; NCCL_DEBUG=INFO tells more");
}

void NcclLink::check_state(const std::string& operation) {
  if (comm_ == nullptr) {
    throw RankError(group_->describe(operation, "failed"), "its communicator was aborted after an earlier error",
                    "see the first error");
  }
  ncclResult_t state = ncclSuccess;
  check(ncclCommGetAsyncError(comm_, &state), operation);
  check(state, operation);
}

void NcclLink::poll_until(const std::string& operation, const std::function<bool()>& done) {
  Polled polled(*group_, operation, done);
  try {
    group_->job->wait(polled);
  } catch (...) {
    abort();  // ends kernels that wait for a rank that will not come
    throw;
  }
}

void NcclLink::settle(ncclResult_t result, const std::string& operation) {
  check(result, operation);
  if (result != ncclInProgress) return;
  poll_until(operation, [this, &operation] {
    ncclResult_t state = ncclSuccess;
    check(ncclCommGetAsyncError(comm_, &state), operation);
    check(state, operation);
    return state == ncclSuccess;
  });
}

std::shared_ptr<Started> NcclLink::queue(const std::string& operation, std::int64_t bytes, int peer, int tag,
                                         cudaStream_t compute, const std::function<ncclResult_t()>& call) {
  forget_finished();
  check_state(operation);
  const std::uint64_t number =
      group_->job->log.begin(operation, group_->name, bytes, peer, tag, group_->job->phase.name);
  PHOTON_CUDA_CHECK(cudaStreamWaitEvent(stream_, record(compute).get(), 0));
  if (calls_ == Calls::direct) {
    check(call(), operation);
  } else {
    settle(call(), operation);
  }
  queued_.push_back({number, operation, record(stream_)});
  return std::make_shared<QueuedOperation>(*this, operation, queued_.back().event, compute);
}

void NcclLink::forget_finished() {
  while (!queued_.empty() && cudaEventQuery(queued_.front().event.get()) == cudaSuccess) {
    group_->job->log.end(queued_.front().number);
    queued_.pop_front();
  }
}

void NcclLink::wait_for(const Event& event) {
  const auto current = [this] { return queued_.empty() ? std::string("device work") : queued_.front().operation; };
  forget_finished();
  poll_until(current(), [&] {
    const cudaError_t result = cudaEventQuery(event.get());
    if (result == cudaSuccess) return true;
    if (result != cudaErrorNotReady) PHOTON_CUDA_CHECK(result);
    check_state(current());
    return false;
  });
  forget_finished();
}

void NcclLink::wait_until(const std::function<bool()>& reached) {
  if (all().empty() || reached()) return;
  // What began first and has not finished is what keeps the stream.
  const auto oldest = [] {
    NcclLink* found = nullptr;
    for (NcclLink* link : all()) {
      link->forget_finished();
      if (link->queued_.empty()) continue;
      if (found == nullptr || link->queued_.front().number < found->queued_.front().number) found = link;
    }
    return found;
  };
  NcclLink* const link = oldest();
  NcclLink& blamed = link == nullptr ? *all().front() : *link;
  const std::string operation = link == nullptr ? "work on the GPU" : link->queued_.front().operation;
  try {
    blamed.poll_until(operation, [&] {
      if (reached()) return true;
      for (NcclLink* each : all()) each->check_state(operation);
      return false;
    });
  } catch (...) {
    for (NcclLink* each : all()) each->abort();  // any of their kernels may hold the GPU
    throw;
  }
}

}  // namespace photon::comm
