#include "model/compute.hpp"

#include <algorithm>

#include "kernels/cuda/scratch.hpp"
#include "model/photon_model.hpp"

namespace photon {

Compute::Compute(Space space, Numerics numerics, std::int64_t scratch_bytes) {
  context_.space = space;
  context_.numerics = numerics;
  if (space == Space::host) return;
  scratch_ = Arena(Space::device, scratch_bytes, "the scratch memory of ops");
  context_.stream = device::make_stream();
  context_.scratch = &scratch_;
}

Compute::~Compute() {
  if (context_.stream.handle() == nullptr) return;
  device::destroy_stream(context_.stream);
}

void Compute::synchronize() const {
  if (context_.space == Space::device) device::synchronize(context_.stream);
}

void reserve_scratch(const Context& ctx, const ModelConfig& config, std::int64_t batch, std::int64_t tokens,
                     DType dtype) {
  if (ctx.space == Space::host) return;
  PHOTON_EXPECT(ctx.scratch != nullptr, "a device context without scratch memory");
  ensure_arena(*ctx.scratch, Space::device, training_scratch_bytes(config, batch, tokens, dtype), "the scratch of ops");
}

std::int64_t training_scratch_bytes(const ModelConfig& config, std::int64_t batch, std::int64_t tokens, DType dtype) {
  cuda::ScratchLimits limits;
  limits.dtype = dtype;
  limits.vocabulary = config.vocab_size;
  const auto stack = [&](const StackConfig& c, std::int64_t width, std::int64_t sequences, std::int64_t positions,
                         bool stream) {
    limits.rows = std::max(limits.rows, sequences * positions);
    limits.width = std::max(limits.width, width);
    if (!stream) return;
    limits.attention_rows = std::max(limits.attention_rows, sequences * positions * c.heads);
    limits.attention_streams = std::max(limits.attention_streams, sequences * c.heads);
    limits.attention_width = std::max(limits.attention_width, width / c.heads);
  };
  if (config.type == ModelType::vanilla) {
    stack(config.stack, config.dim, batch, tokens, true);
    return cuda::scratch_bytes(limits);
  }
  const std::int64_t group = config.group_tokens();
  const std::int64_t length = (tokens + group - 1) / group * group;
  limits.rows = batch * length;
  for (std::int64_t l = 1; l <= config.num_levels(); ++l) {
    const LevelConfig& level = config.levels[static_cast<std::size_t>(l - 1)];
    const std::int64_t units = length / config.cumulative_chunk(l);
    stack(level.encoder, level.dim, batch, units, true);
    stack(level.decoder, config.width(l - 1), batch * units, config.decoder_positions(l), false);
  }
  return cuda::scratch_bytes(limits);
}

}  // namespace photon
