#include "train/memory_plan.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

#include "blueprint/activations.hpp"
#include "blueprint/parameters.hpp"
#include "kernels/quantize.hpp"
#include "model/compute.hpp"
#include "model/model.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

// The number that a file holds alone, e.g. a control group's limit; -1 where there is none ("max", no such file).
std::int64_t number_in(const char* file) {
  std::ifstream stream(file);
  std::int64_t value = -1;
  return stream >> value ? value : -1;
}

std::int64_t available_by_system() {
  std::ifstream stream("/proc/meminfo");
  for (std::string line; std::getline(stream, line);) {
    std::istringstream words(line);
    std::string key;
    std::int64_t kib = 0;
    if (words >> key >> kib && key == "MemAvailable:") return kib * 1024;
  }
  return std::numeric_limits<std::int64_t>::max();
}

}  // namespace

std::string bytes_text(std::int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes >= std::int64_t{1} << 30) return fmt::format("{:.2f} GiB", value / 0x1p30);
  if (bytes >= std::int64_t{1} << 20) return fmt::format("{:.1f} MiB", value / 0x1p20);
  return fmt::format("{:.1f} KiB", value / 1024);
}

std::int64_t available_host_bytes() {
  std::int64_t available = available_by_system();
  const std::int64_t limit = number_in("/sys/fs/cgroup/memory.max");
  const std::int64_t used = number_in("/sys/fs/cgroup/memory.current");
  if (limit >= 0 && used >= 0) available = std::min(available, std::max<std::int64_t>(limit - used, 0));
  return available;
}

TrainPlace train_place(const TrainConfig& config) {
  const Space space = space_of_device(name_of(config.device));
  if (config.precision == Precision::fp32) return {space, DType::f32};
  const char* const name = name_of(config.precision);
  if (space == Space::host) {
    throw InputError(fmt::format("train.precision {} needs a GPU", name),
                     "this run trains on the CPU, which computes in fp32", "set train.precision to fp32");
  }
  if (config.precision == Precision::fp8 && !cuda::has_float8()) {
    throw InputError("train.precision fp8 cannot be used",
                     fmt::format("{} does not multiply 8-bit floats, which takes a GPU of compute capability 8.9 or "
                                 "later",
                                 device::name(0)),
                     "set train.precision to bf16");
  }
  return {space, DType::bf16};
}

MemoryPlan plan_memory(const RunConfig& config, std::int64_t microbatch_size, const TrainPlace& place) {
  return plan_memory(config, {{all_layers(config.model), 1}}, 0, 1, microbatch_size, place);
}

MemoryPlan plan_memory(const RunConfig& config, const std::vector<StagePlan>& layout, std::int64_t stage,
                       std::int64_t num_in_flight, std::int64_t microbatch_size, const TrainPlace& place) {
  const StagePlan& part = layout[static_cast<std::size_t>(stage)];
  const std::int64_t flat = flat_size(hosted_parameters(config.model, part.layers)) * 4;
  const bool on_device = place.space == Space::device;
  const PassOptions passes = pass_options(config);
  return {.weights = weight_bytes(flat / f32_bytes, element_bytes(place.dtype)) +
                     (passes.fp8 ? fp8_weight_bytes(config.model, part.layers) : 0),
          .gradients = flat,
          .optimizer = 2 * flat,
          .arena = num_in_flight * stage_arena_bytes(config, part, microbatch_size, place.dtype, passes),
          .gathered = layout.size() > 1 && stage == 0 && !on_device ? flat_size(parameters(config.model)) * 4 : 0,
          .scratch = on_device ? training_scratch_bytes(config.model, microbatch_size, config.train.sequence_length,
                                                        place.dtype) +
                                     device_overhead_bytes
                               : 0};
}

std::int64_t stage_arena_bytes(const RunConfig& config, const StagePlan& stage, std::int64_t sequences, DType dtype,
                               const PassOptions& options) {
  const ModelConfig& model = config.model;
  const std::int64_t tokens = config.train.sequence_length;
  if (stage.layers == all_layers(model)) return training_arena_bytes(model, sequences, tokens, dtype, options);
  const std::int64_t each = model.num_groups(tokens);
  const std::int64_t unit = model.lookback > 0 ? each : 1;  // Plan::groups
  const std::int64_t groups = (sequences * each / unit + stage.shards - 1) / stage.shards * unit;
  return stage_activation_bytes(model, stage.layers, sequences, tokens, groups, element_bytes(dtype), options);
}

std::int64_t available_bytes(const TrainPlace& place) {
  return place.space == Space::device ? device::free_bytes() : available_host_bytes();
}

std::int64_t arena_budget(const RunConfig& config, std::int64_t available_bytes, const TrainPlace& place) {
  const std::int64_t state = (4 * 4 + (place.dtype == DType::f32 ? 0 : 2)) * flat_size(parameters(config.model));
  const std::int64_t most = std::int64_t{place.space == Space::device ? 12 : 4} << 30;
  return std::min(std::max<std::int64_t>(available_bytes - state, 0) / 2, most);
}

void require_fit(const MemoryPlan& plan, std::int64_t available_bytes, std::int64_t microbatch_size,
                 const TrainPlace& place) {
  if (plan.total() <= available_bytes) return;
  const auto more = [](const char* what, std::int64_t bytes) {
    return bytes > 0 ? fmt::format(", {} {}", what, bytes_text(bytes)) : std::string();
  };
  throw InputError(fmt::format("this run needs {} of {}memory a rank and {} are available", bytes_text(plan.total()),
                               place.space == Space::device ? "GPU " : "", bytes_text(available_bytes)),
                   fmt::format("weights {}, gradients {}, optimizer {}, activations {} for a microbatch of {}{}{}",
                               bytes_text(plan.weights), bytes_text(plan.gradients), bytes_text(plan.optimizer),
                               bytes_text(plan.arena), microbatch_size, more("gathered weights", plan.gathered),
                               more("workspaces", plan.scratch)),
                   microbatch_size > 1
                       ? "set parallel.microbatch_size lower, shorten train.sequence_length or take a smaller model"
                       : "shorten train.sequence_length, take a smaller model or a machine with more memory");
}

}  // namespace photon
