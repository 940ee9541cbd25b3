#include "decode/place.hpp"

#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "decode/engine.hpp"
#include "decode/generate.hpp"
#include "partition/decode_cost.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

constexpr std::int64_t scratch_bytes = std::int64_t{256} << 20;

DType precision_type(const std::string& precision, Space space) {
  if (precision == "auto") return space == Space::device ? DType::bf16 : DType::f32;
  if (precision == "fp32") return DType::f32;
  if (precision != "bf16")
    throw InputError(fmt::format("unknown precision '{}'", precision), "", "use auto, fp32 or bf16");
  if (space == Space::host) {
    throw InputError("bf16 cannot be used on the CPU", "photon computes in fp32 there", "use --precision fp32");
  }
  return DType::bf16;
}

}  // namespace

Place::Place(const std::string& device, const std::string& precision, Numerics numerics, int gpu) : gpu_(gpu) {
  context_.space = space_of_device(device);
  context_.numerics = numerics;
  dtype_ = precision_type(precision, context_.space);
  if (context_.space == Space::host) return;
  device::use(gpu_);
  context_.stream = device::make_stream();
  scratch_ = Arena(Space::device, scratch_bytes, "workspace of decoding");
  context_.scratch = &scratch_;
}

Place::~Place() {
  if (context_.stream.handle() != nullptr) device::destroy_stream(context_.stream);
}

void Place::limit_memory(std::int64_t bytes) {
  memory_limit_ = bytes;
  if (space() == Space::device) device::limit_memory(bytes);
}

std::int64_t Place::used_bytes() const {
  if (space() == Space::device) return device::used_bytes();
  std::int64_t pages = 0;
  std::int64_t resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * sysconf(_SC_PAGE_SIZE);
}

std::string Place::device_name() const {
  return context_.space == Space::host ? "cpu" : device::name(gpu_);
}

CacheMemory cache_memory(const Place& place, const ModelConfig& config, bool chunks, int num_processes) {
  if (place.space() == Space::host) {
    const std::int64_t share = default_cache_memory() / num_processes;
    if (place.memory_limit() == 0) return {share};
    return {std::clamp<std::int64_t>(place.memory_limit() - place.used_bytes(), 0, share)};
  }
  const std::int64_t room = std::max<std::int64_t>(device::free_bytes() - device_spare_bytes, 0);
  const DecodeReserve reserve = decode_reserve(config, element_bytes(place.dtype()), chunks, room);
  return {std::max<std::int64_t>(room - reserve.bytes, 0), reserve.prefill_tokens, reserve.max_chunks};
}

}  // namespace photon
