// Incremental decoding of many sequences at once, in macro-steps of one top-level group (C_<=L tokens; 1 for vanilla).
//
// A sequence lives in a slot; slots advance independently (each has its own length), and rows of a call do not see each
// other: in deterministic numerics a row's bits do not depend on what stands beside it.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "model/model.hpp"

namespace photon {

// Decides tokens: called once for each token position of a group.
class TokenChooser {
 public:
  virtual ~TokenChooser() = default;
  // Whether any row needs logits at this offset of the group (false when all tokens there are forced: the head is
  // skipped).
  virtual bool needs_logits(std::int64_t offset) = 0;
  // logits [n, V] f32 (empty when not needed) predict the token at `offset` of the group for row i of the call's rows;
  // writes tokens [n] i32. Logits may be modified.
  virtual void choose(std::int64_t offset, const TensorView& logits, std::span<std::int32_t> tokens) = 0;
};

class IncrementalDecoder {
 public:
  virtual ~IncrementalDecoder() = default;

  virtual std::int64_t group_tokens() const = 0;  // tokens a macro-step makes: C_<=L, 1 for vanilla
  virtual std::int64_t num_slots() const = 0;
  virtual std::int64_t max_tokens() const = 0;               // per slot, a multiple of group_tokens()
  virtual std::int64_t cache_bytes() const = 0;              // of all slots
  virtual std::int64_t length(std::int64_t slot) const = 0;  // tokens the slot holds: a multiple of group_tokens()

  virtual void clear(std::int64_t slot) = 0;
  // Makes `to` hold what `from` holds (samples of one prompt).
  virtual void copy_slot(std::int64_t from, std::int64_t to) = 0;
  // Encodes prompts into empty slots in one pass; each prompt's length is a multiple of group_tokens() (0 allowed).
  virtual void prefill(std::span<const std::int64_t> slots, std::span<const std::span<const std::int32_t>> prompts) = 0;

  // HierGen: one group for every row, i-th row in slots[i] (all different). The encoders advance as units complete.
  virtual void step_group(std::span<const std::int64_t> slots, TokenChooser& chooser) = 0;

  // RecGen (L >= 2, lookback 0; others throw InputError): the coarse stream of every row runs `num_groups` groups ahead
  // by itself. Returns the level-1 conditioning c(1) of all their chunks: [n, num_groups * C_<=L / C_1, D_1].
  virtual Tensor roll_out(std::span<const std::int64_t> slots, std::int64_t num_groups) = 0;
  // Decodes chunks in parallel: conditioning [m, D_1]; offsets run 0 .. C_1 - 1, all m chunks at once.
  virtual void decode_chunks(const ConstTensorView& conditioning, TokenChooser& chooser) = 0;
};

// Caches for `num_slots` sequences of up to `max_tokens` tokens (rounded up to whole groups). The model must outlive
// it.
std::unique_ptr<IncrementalDecoder> make_incremental_decoder(Model& model, const Context& ctx, std::int64_t num_slots,
                                                             std::int64_t max_tokens);

// Bytes of caches one slot of `max_tokens` tokens takes.
std::int64_t slot_cache_bytes(const ModelConfig& config, std::int64_t max_tokens, DType dtype = DType::f32);

// Y(0) [B, T, D_0] in the model's dtype under RecGen's likelihood (docs/model.md): row b's first prompt_tokens[b]
// tokens are the prompt; tokens before it, rounded up to whole groups, follow HierGen's rule, later ones the latents
// rolled out from there, teacher-forced inside their own chunk only. Errors: InputError unless L >= 2 and lookback = 0.
Tensor recgen_hidden(Model& model, const Context& ctx, const Batch& batch, std::span<const std::int64_t> prompt_tokens);

// InputError naming what this model lacks for RecGen; returns when it can.
void require_recgen(const ModelConfig& config);

}  // namespace photon
