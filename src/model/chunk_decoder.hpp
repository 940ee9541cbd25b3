// Level 1 of decoding: chunks of C_1 tokens from their conditioning c(1), by converter, local decoder, head and draw.
// It needs nothing of the levels above but c(1), so it may run on another rank than they do (chunk_server.hpp).
#pragma once

#include <functional>

#include "model/local_decoder.hpp"
#include "model/step_queue.hpp"

namespace photon {

// The rows of a call, and where their tokens go.
struct ChunkCall {
  TensorView history;        // [slots, capacity] i32: tokens by position, as draw_tokens() has them
  ConstTensorView slot;      // [n] i32, rows of `history`, and ...
  ConstTensorView position;  // ... [n] i32, of the block's token 0: both for lookback alone
  std::int64_t offset = 0;   // of the chunk's first token in the block
  // For comparisons: sees the logits of rows begin .. at an offset, of all tokens.
  std::function<void(const ConstTensorView& logits, std::int64_t begin, std::int64_t offset)> watch;
};

class ChunkDecoder {
 public:
  // `weights` outlive it: embedding, level 1's converter and decoder, head.
  ChunkDecoder(const ModelConfig& config, const PhotonTensors& weights, const Context& ctx, DType dtype);

  // As LocalDecoder.
  bool reserve(std::int64_t rows) { return local_.reserve(rows); }
  std::int64_t call_bytes(std::int64_t rows) const;
  std::int64_t cache_bytes() const { return local_.cache_bytes(); }

  // Draws the block's tokens offset .. offset + C_1 - 1 of every row from c [n, D_1]. Their embeddings go to `units`
  // [n, C_1, D_0] unless that is empty.
  void decode(Arena& arena, const StepBlock& block, const ConstTensorView& c, const ChunkCall& call,
              const TensorView& units);

 private:
  std::int64_t logits_rows(std::int64_t rows) const;
  // y [n, D_0] -> head -> tokens at `offset`; embedded into x [n, D_0] unless that is empty.
  void draw(Arena& arena, const StepBlock& block, const ConstTensorView& y, const ChunkCall& call, std::int64_t offset,
            const TensorView& x);

  Context ctx_;
  DType dtype_;
  std::int64_t vocab_size_;
  std::int64_t width_;  // D_0
  std::int64_t chunk_;
  std::int64_t lookback_;
  const PhotonTensors& weights_;
  LocalDecoder local_;
};

}  // namespace photon
