// What a build without CUDA answers.
#include "tensor/graph.hpp"

#include "support/error.hpp"

namespace photon {

Graph::~Graph() = default;
Graph::Graph(Graph&& other) noexcept = default;
Graph& Graph::operator=(Graph&& other) noexcept = default;

Graph Graph::record(Stream, const std::function<void()>&) {
  throw NotConfigured("a graph of device work", "CUDA");
}
void Graph::launch(Stream) const {
  throw NotConfigured("a graph of device work", "CUDA");
}

Event::Event() {
  throw NotConfigured("a device event", "CUDA");
}
Event::~Event() = default;
Event::Event(Event&& other) noexcept = default;
Event& Event::operator=(Event&& other) noexcept = default;
void Event::record(Stream) {
  throw NotConfigured("a device event", "CUDA");
}
void Event::wait() const {
  throw NotConfigured("a device event", "CUDA");
}
void Event::hold(Stream) const {}
bool Event::reached() const {
  throw NotConfigured("a device event", "CUDA");
}
double Event::seconds_since(const Event&) const {
  throw NotConfigured("a device event", "CUDA");
}

PinnedBuffer::PinnedBuffer(std::int64_t, const std::string&) {
  throw NotConfigured("pinned memory", "CUDA");
}
PinnedBuffer::~PinnedBuffer() = default;
PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept = default;
PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept = default;

void queue_read(Stream, const ConstTensorView&, void*) {
  throw NotConfigured("device memory", "CUDA");
}

}  // namespace photon
