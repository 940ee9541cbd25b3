#include "model/chunk_decoder.hpp"

#include <algorithm>

#include "kernels/slot_rows.hpp"
#include "kernels/top_tokens.hpp"
#include "model/model.hpp"

namespace photon {
namespace {

// Logits exist for so many rows at a time on a device: they then stay in its cache until they have been drawn from.
constexpr std::int64_t device_logits_rows = 2048;

}  // namespace

ChunkDecoder::ChunkDecoder(const ModelConfig& config, const PhotonTensors& weights, const Context& ctx, DType dtype)
    : ctx_(ctx),
      dtype_(dtype),
      vocab_size_(config.vocab_size),
      width_(config.dim),
      chunk_(config.cumulative_chunk(1)),
      lookback_(config.lookback),
      weights_(weights),
      local_(config, 1, weights.levels[0], ctx, dtype) {}

std::int64_t ChunkDecoder::logits_rows(std::int64_t rows) const {
  return ctx_.space == Space::device ? std::min(rows, device_logits_rows) : rows;
}

std::int64_t ChunkDecoder::call_bytes(std::int64_t rows) const {
  const std::int64_t element = element_bytes(dtype_);
  return arena_bytes(logits_rows(rows) * vocab_size_, 4) + arena_bytes(rows, 4) + arena_bytes(rows * lookback_, 4) +
         2 * arena_bytes(rows * width_, element) + local_.call_bytes(rows);
}

void ChunkDecoder::draw(Arena& arena, const StepBlock& block, const ConstTensorView& y, const ChunkCall& chunk,
                        std::int64_t offset, const TensorView& x) {
  const ArenaScope scope(arena);
  const auto at = static_cast<std::size_t>(offset);
  const std::int64_t n = y.size(0);
  const TensorView tokens = arena.allocate(DType::i32, {n});
  const bool with_logits = block.needs_logits[at] || chunk.watch;
  const std::int64_t part = logits_rows(n);
  const TensorView logits = with_logits ? arena.allocate(DType::f32, {part, vocab_size_}) : TensorView();
  for (std::int64_t begin = 0; begin < n; begin += part) {
    const std::int64_t count = std::min(part, n - begin);
    DrawCall call;
    if (with_logits) {
      call.logits = logits.slice(0, 0, count);
      step_linear(ctx_, y.slice(0, begin, count), weights_.head, call.logits);
      if (chunk.watch) chunk.watch(call.logits, begin, offset);
      if (block.top_tokens[at]) {
        top_tokens(ctx_, call.logits, block.top_tokens[at].slice(0, begin, count),
                   block.top_logprobs[at].slice(0, begin, count));
      }
    }
    call.rows = block.draws.slice(0, begin * static_cast<std::int64_t>(sizeof(DrawRow)),
                                  count * static_cast<std::int64_t>(sizeof(DrawRow)));
    call.forced = block.forced[at].slice(0, begin, count);
    call.history = chunk.history;
    call.offset = offset;
    call.tokens = tokens.slice(0, begin, count);
    call.chosen = block.chosen[at].slice(0, begin, count);
    if (block.logprobs[at]) call.logprobs = block.logprobs[at].slice(0, begin, count);
    if (x) {
      call.table = weights_.embed;
      call.x = x.slice(0, begin, count);
    }
    draw_tokens(ctx_, call);
  }
}

void ChunkDecoder::decode(Arena& arena, const StepBlock& block, const ConstTensorView& c, const ChunkCall& call,
                          const TensorView& units) {
  const ArenaScope scope(arena);
  const std::int64_t n = c.size(0);
  const TensorView y = arena.allocate(dtype_, {n, width_});
  const TensorView spare = units ? TensorView() : arena.allocate(dtype_, {n, width_});
  {
    const ArenaScope recent_scope(arena);
    const TensorView recent = lookback_ > 0 ? arena.allocate(DType::i32, {n, lookback_}) : TensorView();
    if (recent) recent_tokens(ctx_, call.history, call.slot, call.position, call.offset, -1, recent);
    local_.start(arena, c, recent, weights_.embed, y);
  }
  for (std::int64_t j = 0; j < chunk_; ++j) {
    const bool last = j + 1 == chunk_;
    const TensorView unit = units ? units.slice(1, j, 1).merge(1) : last ? TensorView() : spare;
    draw(arena, block, y, call, call.offset + j, unit);
    if (!last) local_.next(arena, j, unit, y);
  }
}

}  // namespace photon
