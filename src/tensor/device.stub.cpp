// What a build without CUDA answers.
#include "tensor/device.hpp"

namespace photon::device {

int count() {
  return 0;
}
std::string name(int) {
  throw NotConfigured("a GPU", "CUDA");
}
void use(int) {
  throw NotConfigured("a GPU", "CUDA");
}
void* allocate(std::int64_t, const std::string& what) {
  throw NotConfigured("device memory for " + what, "CUDA");
}
void release(void*) noexcept {}
void fill_bytes(void*, int, std::int64_t) {
  throw NotConfigured("device memory", "CUDA");
}
Stream make_stream() {
  throw NotConfigured("a device stream", "CUDA");
}
void destroy_stream(Stream) noexcept {}
void set_wait(void (*)(const std::function<bool()>&)) {}
void synchronize(Stream) {
  throw NotConfigured("a device stream", "CUDA");
}
std::int64_t free_bytes() {
  throw NotConfigured("a GPU's memory", "CUDA");
}
std::int64_t used_bytes() {
  throw NotConfigured("a GPU's memory", "CUDA");
}
void limit_memory(std::int64_t) {
  throw NotConfigured("a GPU's memory", "CUDA");
}
void queue_copy(Stream, const void*, Space, void*, Space, std::int64_t, std::int64_t, std::int64_t, std::int64_t) {
  throw NotConfigured("device memory", "CUDA");
}
void pin(void*, std::int64_t) {
  throw NotConfigured("memory that a GPU reaches", "CUDA");
}
void unpin(void*) noexcept {}
void copy_memory(const void*, Space, void*, Space, std::int64_t, std::int64_t, std::int64_t, std::int64_t) {
  throw NotConfigured("device memory", "CUDA");
}

}  // namespace photon::device
