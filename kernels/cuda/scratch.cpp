#include "kernels/cuda/scratch.hpp"

namespace photon::cuda {
namespace {

// CUB's radix sort of n pairs of 4-byte keys and values: a second copy of both, and what its passes count.
std::int64_t sort_footprint(std::int64_t n) {
  return Arena::footprint(DType::u8, 9 * n + (std::int64_t{1} << 20));
}

}  // namespace

std::int64_t scratch_bytes(const ScratchLimits& l) {
  const std::int64_t total = Arena::footprint(DType::f64, 1);
  std::int64_t bytes = Arena::footprint(DType::f64, square_sum_blocks) + total;
  bytes = std::max(bytes, Arena::footprint(DType::f32, std::min(l.rows, norm_backward_blocks) * l.width));
  std::int64_t attention = Arena::footprint(DType::f32, l.attention_rows);
  // A caller that names only the rows gets room for the widest heads, and for streams of one tile.
  const std::int64_t width = l.attention_width > 0 ? l.attention_width : 128;
  if (l.dtype == DType::bf16 && flash_width(width) && l.attention_rows > 0) {
    const std::int64_t tile = flash_query_tile(width);
    const std::int64_t streams = l.attention_streams > 0 ? l.attention_streams : l.attention_rows / 64 + 1;
    const std::int64_t rows = (l.attention_rows / tile + streams) * tile;  // the last tile of each stream whole
    attention = 2 * Arena::footprint(DType::f32, rows) + Arena::footprint(DType::f32, rows * width) +
                Arena::footprint(DType::i32, rows / 64 * flash_turns + 1);
  }
  bytes = std::max(bytes, attention);
  if (l.dtype == DType::bf16 && l.cache_capacity > 0) {
    bytes = std::max(bytes, cache_rows_scratch(l.cache_capacity, l.cache_width));
  }
  bytes = std::max(bytes, 3 * Arena::footprint(DType::i32, l.rows) + sort_footprint(l.rows));
  bytes = std::max(bytes, Arena::footprint(DType::f64, l.rows) + total);
  if (l.vocabulary == 0) return bytes;
  for (const DType logits : {DType::f32, l.dtype}) {
    const std::int64_t count = head_loss_rows(l.rows, l.vocabulary, logits) * l.vocabulary;
    bytes = std::max(bytes, Arena::footprint(DType::f64, l.rows) + total + Arena::footprint(logits, count));
  }
  const std::int64_t sampled = sampling_rows(l.sampled_rows, l.vocabulary);
  const std::int64_t sorted = sampled * l.vocabulary;
  // Options and results of a row take less than 128 bytes.
  return std::max(bytes, 2 * Arena::footprint(DType::u8, 128 * sampled) + Arena::footprint(DType::i32, l.seen_tokens) +
                             4 * Arena::footprint(DType::f32, sorted) + 2 * Arena::footprint(DType::i32, sampled) +
                             sort_footprint(sorted));
}

}  // namespace photon::cuda
