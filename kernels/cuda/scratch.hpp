// How large the scratch arena of a run on a GPU must be.
#pragma once

#include <algorithm>

#include "tensor/buffer.hpp"

namespace photon::cuda {

// The largest calls of a run; 0 where it makes none of that sort.
struct ScratchLimits {
  DType dtype = DType::f32;  // of the activations
  std::int64_t rows = 0;     // of norms, losses and embeddings
  std::int64_t width = 0;    // of the rows that are normalised
  std::int64_t vocabulary = 0;
  std::int64_t attention_rows = 0;     // B * N * Hq of a stream attention's backward pass
  std::int64_t attention_streams = 0;  // B * Hq of it
  std::int64_t attention_width = 0;    // hd of it
  std::int64_t cache_capacity = 0;     // of the largest key/value cache
  std::int64_t cache_width = 0;        // its hd
  std::int64_t sampled_rows = 0;
  std::int64_t seen_tokens = 0;  // over all sampled rows of a call
};

// Bytes of the arena with which no op of such a run fails for want of workspace. Ops use it one after another.
std::int64_t scratch_bytes(const ScratchLimits& limits);

// The sizes behind it, which the ops share.

// Blocks with partial sums of a norm's weight gradient: 4 a multiprocessor of an H100, everywhere, so that sums have
// one order.
inline constexpr std::int64_t norm_backward_blocks = 528;
// Blocks of a sum of squares, fixed likewise.
inline constexpr std::int64_t square_sum_blocks = 1056;

// bf16 heads of these widths go to the tensor cores; their backward pass sums dq in float32, tile by tile.
inline bool flash_width(std::int64_t head_width) {
  return head_width == 64 || head_width == 128;
}
// Queries at a time.
constexpr std::int64_t flash_query_tile(std::int64_t head_width) {
  return head_width == 64 ? 128 : 64;
}
inline constexpr std::int64_t flash_turns = 8;  // counters for 64 queries

// Positions of a cache that are swept before their result is merged into the row's; and how many (row, key head, tile
// of queries) there must be for a block to sweep all of one's chunks: 4 a multiprocessor of an H100, everywhere.
inline constexpr int cache_rows_chunk = 256;
inline constexpr std::int64_t cache_rows_split_below = 528;
// Bytes that split problems take: so many of them, with up to 8 queries and 128 elements each.
inline std::int64_t cache_rows_scratch(std::int64_t capacity, std::int64_t head_width) {
  const std::int64_t chunks = (capacity + cache_rows_chunk - 1) / cache_rows_chunk;
  return Arena::footprint(DType::f32, cache_rows_split_below * chunks * 8 * ((head_width <= 64 ? 64 : 128) + 2));
}

// Rows whose logits exist at a time in the head's loss: 256 MiB of logits. More rows at once read and write the
// weight's gradient less often.
inline std::int64_t head_loss_rows(std::int64_t rows, std::int64_t vocabulary, DType logits) {
  const std::int64_t fitting = (std::int64_t{1} << 28) / (vocabulary * static_cast<std::int64_t>(size_of(logits)));
  return std::min(rows, std::max<std::int64_t>(fitting / 128 * 128, 128));
}
// Rows that are sorted at a time in sampling: 64 MiB of workspace.
inline std::int64_t sampling_rows(std::int64_t rows, std::int64_t vocabulary) {
  return std::min(rows, std::max<std::int64_t>((std::int64_t{1} << 22) / vocabulary, 1));
}

}  // namespace photon::cuda
