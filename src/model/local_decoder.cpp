#include "model/local_decoder.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/slot_rows.hpp"
#include "model/model.hpp"

namespace photon {

LocalDecoder::LocalDecoder(const ModelConfig& config, std::int64_t l, const LevelTensors& weights, const Context& ctx,
                           DType dtype)
    : ctx_(ctx),
      dtype_(dtype),
      width_(config.width(l - 1)),
      prefix_(config.levels[static_cast<std::size_t>(l - 1)].prefix),
      lookback_(config.level_lookback(l)),
      positions_(config.decoder_positions(l)),
      weights_(weights),
      stack_(config.levels[static_cast<std::size_t>(l - 1)].decoder, width_, config.norm_eps, AttentionKind::group) {
  stack_.reserve(ctx.space, positions_);
}

bool LocalDecoder::reserve(std::int64_t rows) {
  if (rows <= rows_) return false;
  rows_ = rows;
  cache_ = KvCache();
  cache_ = stack_.make_cache(ctx_.space, dtype_, rows, positions_);
  std::vector<std::int32_t> values(static_cast<std::size_t>(rows));
  std::iota(values.begin(), values.end(), 0);
  iota_ = Tensor(ctx_.space, DType::i32, {rows}, "row numbers");
  copy(ctx_.stream, host_view(values.data(), {rows}), iota_);
  constants_ = Tensor(ctx_.space, DType::i32, {positions_, rows}, "positions of the local decoders");
  for (std::int64_t p = 0; p < positions_; ++p) {
    std::fill(values.begin(), values.end(), static_cast<std::int32_t>(p));
    copy(ctx_.stream, host_view(values.data(), {rows}), constants_.view().slice(0, p, 1).merge(0));
  }
  return true;
}

std::int64_t LocalDecoder::call_bytes(std::int64_t rows) const {
  const std::int64_t element = element_bytes(dtype_);
  return arena_bytes(rows * start_positions() * width_, element) +
         std::max(stack_.step_bytes(rows, start_positions(), element), stack_.step_bytes(rows, 1, element));
}

ConstTensorView LocalDecoder::constant(std::int64_t value, std::int64_t rows) const {
  return constants_.view().slice(0, value, 1).merge(0).slice(0, 0, rows);
}

void LocalDecoder::start(Arena& arena, const ConstTensorView& c, const ConstTensorView& recent,
                         const ConstTensorView& table, const TensorView& y) {
  const ArenaScope scope(arena);
  const std::int64_t n = c.size(0);
  const TensorView in = arena.allocate(dtype_, {n, start_positions(), width_});
  step_linear(ctx_, c, weights_.converter, in.slice(1, 0, prefix_).merge(1));
  if (lookback_ > 0) embed_or_zero(ctx_, table, recent, in.slice(1, prefix_, lookback_));
  stack_.step(ctx_, arena, weights_.decoder, in.merge(0), cache_, iota_.view().slice(0, 0, n), constant(0, n), y);
}

void LocalDecoder::next(Arena& arena, std::int64_t j, const ConstTensorView& content, const TensorView& y) {
  const std::int64_t n = content.size(0);
  stack_.step(ctx_, arena, weights_.decoder, content, cache_, iota_.view().slice(0, 0, n),
              constant(start_positions() + j, n), y);
}

}  // namespace photon
