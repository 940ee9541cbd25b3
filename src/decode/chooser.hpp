// Who decides the tokens of a group: the prompt where it still reaches, the sampler elsewhere.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "decode/sample.hpp"
#include "model/incremental.hpp"

namespace photon {

// HierGen: the tokens of one group for every row. Tokens are accepted as they are drawn.
class GroupChooser : public TokenChooser {
 public:
  // lengths[i]: tokens row i's slot holds, where its group begins. `samples` must outlive this.
  GroupChooser(const Context& ctx, std::span<Sample* const> samples, std::span<const std::int64_t> lengths,
               bool logprobs);

  bool needs_logits(std::int64_t offset) override;
  void choose(std::int64_t offset, const TensorView& logits, std::span<std::int32_t> tokens) override;

 private:
  bool draws(std::size_t row, std::int64_t offset) const;

  Context ctx_;
  std::span<Sample* const> samples_;
  std::vector<std::int64_t> lengths_;
  bool logprobs_;
};

// A chunk of a row whose latent is known: `position` is its first token's.
struct Chunk {
  Sample* sample = nullptr;
  std::int64_t position = 0;
  // True: all earlier tokens of the sample are decided, so its tokens are accepted as they are drawn. False: they wait
  // in `tokens`.
  bool in_order = false;
  std::vector<std::int32_t> tokens;
  std::vector<float> logprobs;
  std::string failure;  // why its tokens could not be drawn
};

// RecGen: all chunks at once.
class ChunkChooser : public TokenChooser {
 public:
  ChunkChooser(const Context& ctx, std::span<Chunk> chunks, bool logprobs);

  bool needs_logits(std::int64_t) override { return true; }
  void choose(std::int64_t offset, const TensorView& logits, std::span<std::int32_t> tokens) override;

 private:
  Context ctx_;
  std::span<Chunk> chunks_;
  bool logprobs_;
};

}  // namespace photon
