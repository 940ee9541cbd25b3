// Graphs, events and pinned memory by the CUDA runtime.
#include "tensor/graph.hpp"

#include <cuda_runtime.h>

#include <cstring>
#include <utility>

#include "tensor/cuda_check.hpp"
#include "tensor/cuda_wait.hpp"

namespace photon {
namespace {

cudaStream_t to_cuda(Stream stream) {
  return static_cast<cudaStream_t>(stream.handle());
}
cudaEvent_t to_event(void* handle) {
  return static_cast<cudaEvent_t>(handle);
}

struct GraphOwner {
  cudaGraph_t graph = nullptr;
  ~GraphOwner() {
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
  }
};

}  // namespace

Graph::~Graph() {
  if (handle_ != nullptr) (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(handle_));
}

Graph::Graph(Graph&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)), num_nodes_(std::exchange(other.num_nodes_, 0)) {}

Graph& Graph::operator=(Graph&& other) noexcept {
  std::swap(handle_, other.handle_);
  std::swap(num_nodes_, other.num_nodes_);
  return *this;
}

Graph Graph::record(Stream stream, const std::function<void()>& body) {
  PHOTON_EXPECT(stream.handle() != nullptr, "work of the default stream cannot be recorded");
  GraphOwner recorded;
  PHOTON_CUDA_CHECK(cudaStreamBeginCapture(to_cuda(stream), cudaStreamCaptureModeThreadLocal));
  try {
    body();
  } catch (...) {
    (void)cudaStreamEndCapture(to_cuda(stream), &recorded.graph);
    (void)cudaGetLastError();
    throw;
  }
  PHOTON_CUDA_CHECK(cudaStreamEndCapture(to_cuda(stream), &recorded.graph));
  std::size_t nodes = 0;
  PHOTON_CUDA_CHECK(cudaGraphGetNodes(recorded.graph, nullptr, &nodes));
  cudaGraphExec_t executable = nullptr;
  PHOTON_CUDA_CHECK(cudaGraphInstantiate(&executable, recorded.graph, 0));
  Graph graph;
  graph.handle_ = executable;
  graph.num_nodes_ = static_cast<std::int64_t>(nodes);
  return graph;
}

void Graph::launch(Stream stream) const {
  PHOTON_EXPECT(handle_ != nullptr, "launch of a graph that was never recorded");
  PHOTON_CUDA_CHECK(cudaGraphLaunch(static_cast<cudaGraphExec_t>(handle_), to_cuda(stream)));
}

Event::Event() {
  cudaEvent_t event = nullptr;
  PHOTON_CUDA_CHECK(cudaEventCreate(&event));
  handle_ = event;
}

Event::~Event() {
  if (handle_ != nullptr) (void)cudaEventDestroy(to_event(handle_));
}

Event::Event(Event&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}

Event& Event::operator=(Event&& other) noexcept {
  std::swap(handle_, other.handle_);
  return *this;
}

void Event::record(Stream stream) {
  PHOTON_CUDA_CHECK(cudaEventRecord(to_event(handle_), to_cuda(stream)));
}

void Event::wait() const {
  device::wait_for_event(to_event(handle_));
}

void Event::hold(Stream stream) const {
  PHOTON_CUDA_CHECK(cudaStreamWaitEvent(to_cuda(stream), static_cast<cudaEvent_t>(handle_)));
}

bool Event::reached() const {
  const cudaError_t result = cudaEventQuery(to_event(handle_));
  if (result == cudaErrorNotReady) {
    (void)cudaGetLastError();
    return false;
  }
  PHOTON_CUDA_CHECK(result);
  return true;
}

double Event::seconds_since(const Event& begin) const {
  wait();
  float milliseconds = 0;
  PHOTON_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, to_event(begin.handle_), to_event(handle_)));
  return static_cast<double>(milliseconds) * 1e-3;
}

PinnedBuffer::PinnedBuffer(std::int64_t bytes, const std::string& what) : bytes_(bytes) {
  if (bytes == 0) return;
  const cudaError_t result = cudaMallocHost(&data_, static_cast<std::size_t>(bytes));
  if (result == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    throw Error(fmt::format("{} bytes of pinned memory for {} could not be allocated", bytes, what),
                "the system has no more page-locked memory", "free memory on this machine, or use a smaller batch");
  }
  PHOTON_CUDA_CHECK(result);
  std::memset(data_, 0, static_cast<std::size_t>(bytes));
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) (void)cudaFreeHost(data_);
}

PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

void queue_read(Stream stream, const ConstTensorView& from, void* to) {
  PHOTON_EXPECT(from.space() == Space::device && from.contiguous(), "a queued read of {} memory of shape {}",
                name_of(from.space()), from.shape().str());
  if (from.numel() == 0) return;
  PHOTON_CUDA_CHECK(cudaMemcpyAsync(to, from.data(), static_cast<std::size_t>(from.bytes()), cudaMemcpyDeviceToHost,
                                    to_cuda(stream)));
}

}  // namespace photon
