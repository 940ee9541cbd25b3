#include "decode/place.hpp"

#include "decode/engine.hpp"
#include "decode/generate.hpp"
#include "model/incremental.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

constexpr std::int64_t scratch_bytes = std::int64_t{256} << 20;
constexpr std::int64_t spare_bytes = std::int64_t{2} << 30;  // of a GPU: libraries, recorded graphs, fragments

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

std::string Place::device_name() const {
  return context_.space == Space::host ? "cpu" : device::name(gpu_);
}

std::int64_t cache_memory(const Place& place, const ModelConfig& config, bool recgen, int num_processes) {
  if (place.space() == Space::host) return default_cache_memory() / num_processes;
  // A row of a step stands for a position of a prompt, generously.
  const std::int64_t row = step_row_bytes(config, place.dtype());
  std::int64_t beside = spare_bytes + device_prefill_tokens * row / 4;
  if (recgen) beside += device_max_chunks * (row + slot_cache_bytes(config, 1, place.dtype()));
  return std::max<std::int64_t>(device::free_bytes() - beside, 0);
}

}  // namespace photon
