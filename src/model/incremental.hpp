// Incremental decoding of many sequences at once, in macro-steps of one top-level group (C_<=L tokens; 1 for vanilla).
//
// A sequence lives in a slot; slots advance independently (each has its own length), and rows of a call do not see each
// other: in deterministic numerics a row's bits do not depend on what stands beside it. Tokens are drawn where the
// model is: a macro-step gets what it must know of every row and gives back the tokens when it is done, so that a GPU
// never waits for the host inside one. On a GPU steps are queued: the host may queue one and handle the results of the
// one before.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kernels/draw.hpp"
#include "kernels/top_tokens.hpp"
#include "model/model.hpp"

namespace photon {

// How one row of a call draws its tokens; `key` names the token at the call's first position.
struct RowDraw {
  SamplingOptions options;
  SampleKey key;
};

// One group for n rows, i-th row in slots[i] (all different), at positions length(slots[i]) ..
struct GroupStep {
  std::span<const std::int64_t> slots;
  std::span<const std::int32_t> forced;  // [n, group_tokens()]: a given token (what follows a prompt's whole groups;
                                         // any token where nobody will read it), or draw_token
  std::span<const RowDraw> draws;        // n
};

// Chunks of rolled-out rows, all at once: n chunks of C_1 tokens.
struct ChunkStep {
  std::span<const std::int64_t> latents;  // n rows of the roll-out's [rows * chunks, D_1]
  std::span<const std::int64_t> slots;    // whose tokens they are; a slot may come more than once
  std::span<const RowDraw> draws;         // n; key.position is the chunk's first token
  std::span<const std::int32_t> forced;   // [n, C_1] as in GroupStep; empty: all are drawn
};

// What a step came to, n rows of a group's (or a chunk's) tokens.
struct StepResult {
  std::int64_t num_tokens = 0;           // of a row
  std::vector<std::int32_t> tokens;      // [n, num_tokens]; failed_token where the row's logits were not finite
  std::vector<float> logprobs;           // [n, num_tokens], 0 at forced tokens; empty unless asked for
  std::int64_t num_top = 0;              // likeliest tokens of each, as asked for
  std::vector<std::int32_t> top_tokens;  // [n, num_tokens, num_top], as top_tokens() has them; of no meaning at forced
                                         // tokens
  std::vector<float> top_logprobs;

  // Behind each other, of like steps.
  void append(const StepResult& more);
};

struct DecoderOptions {
  bool logprobs = false;
  // RecGen alone: the encoders below the top keep caches for at most so many slots, from prefill(), or a step, until
  // finish_prompt(). 0: every slot has its own.
  std::int64_t prompt_rows = 0;
  std::int64_t top_logprobs = 0;  // how many of the likeliest tokens are told beside each drawn one
  bool graphs =
      true;  // on a GPU: macro-steps are recorded once for each batch size and replayed, with the same results
};

class IncrementalDecoder {
 public:
  virtual ~IncrementalDecoder() = default;

  virtual std::int64_t group_tokens() const = 0;  // tokens a macro-step makes: C_<=L, 1 for vanilla
  virtual std::int64_t num_slots() const = 0;
  virtual std::int64_t max_tokens() const = 0;               // per slot, a multiple of group_tokens()
  virtual std::int64_t cache_bytes() const = 0;              // of all slots
  virtual std::int64_t length(std::int64_t slot) const = 0;  // tokens the slot holds: a multiple of group_tokens()
  // Whether a second step may be queued before the first one's results are taken, and runs beside the host.
  virtual bool asynchronous() const { return false; }
  // Steps, or calls of chunks, of different rows that go on side by side. One: they are carried out one after another.
  virtual std::int64_t num_cohorts() const { return 1; }

  virtual void clear(std::int64_t slot) = 0;
  // How many slots may have prompts that are not finished.
  virtual std::int64_t prompt_rows() const { return num_slots(); }
  // RecGen: the slot takes no further step_group(), only roll_out(). Must come before rows of other slots can take its
  // place where prompt_rows() < num_slots().
  virtual void finish_prompt(std::int64_t /*slot*/) {}
  // Makes `to` hold what `from` holds (samples of one prompt).
  virtual void copy_slot(std::int64_t from, std::int64_t to) = 0;
  // Encodes prompts into empty slots in one pass; each prompt's length is a multiple of group_tokens() (0 allowed).
  virtual void prefill(std::span<const std::int64_t> slots, std::span<const std::span<const std::int32_t>> prompts) = 0;
  // Seconds that a device has spent in prefill() calls so far, those under way left out; 0 on the host, where the call
  // itself takes the time.
  virtual double prefill_device_seconds() const { return 0; }
  // Until all that is queued is done.
  virtual void synchronize() {}

  // HierGen: queues one group for every row. The encoders advance as units complete. At most two steps may wait for
  // take_step(); where there are several cohorts so many, of different rows.
  virtual void step_group(const GroupStep& step) = 0;
  // Waits for the oldest step queued. Empty when there was none.
  virtual StepResult take_step() = 0;

  // RecGen (L >= 2, lookback 0; others throw InputError): the coarse stream of every row runs `num_groups` groups ahead
  // by itself. Returns the level-1 conditioning c(1) of all their chunks, [n, num_groups * C_<=L / C_1, D_1], which
  // stays until the next call.
  virtual ConstTensorView roll_out(std::span<const std::int64_t> slots, std::int64_t num_groups) = 0;
  // Decodes chunks in parallel from a roll-out's latents, [rows * chunks, D_1], which are read before it returns or, on
  // a device, before anything queued later: C_1 token steps, all chunks at once. As many calls as there are cohorts may
  // wait for take_chunks(). A slot with a call under way is not cleared, filled or stepped.
  virtual void start_chunks(const ConstTensorView& latents, const ChunkStep& step) = 0;
  // Waits for the oldest call. Empty when it was of no chunks.
  virtual StepResult take_chunks() = 0;
  // Both, where no other call is under way.
  StepResult decode_chunks(const ConstTensorView& latents, const ChunkStep& step) {
    start_chunks(latents, step);
    return take_chunks();
  }

  // For comparisons: when given, [n, tokens of a row, V] f32 in host memory, the next step writes the logits it draws
  // from there (of all positions, forced ones too). It is slower, and never recorded.
  void watch_logits(const TensorView& logits) { watched_ = logits; }

 protected:
  // Rows begin .. of the watched logits at a token's offset.
  void show_logits(const Context& ctx, const ConstTensorView& logits, std::int64_t begin, std::int64_t offset) const;

  TensorView watched_;
};

// Caches for `num_slots` sequences of up to `max_tokens` tokens (rounded up to whole groups), in the model's memory and
// precision. The model must outlive it.
std::unique_ptr<IncrementalDecoder> make_incremental_decoder(Model& model, const Context& ctx, std::int64_t num_slots,
                                                             std::int64_t max_tokens,
                                                             const DecoderOptions& options = {});

// Bytes of caches one slot of `max_tokens` tokens takes.
std::int64_t slot_cache_bytes(const ModelConfig& config, std::int64_t max_tokens, DType dtype = DType::f32);

// Bytes that a macro-step needs for each of its rows besides, at most.
std::int64_t step_row_bytes(const ModelConfig& config, DType dtype);

// Y(0) [B, T, D_0] in the model's dtype under RecGen's likelihood (docs/model.md): row b's first prompt_tokens[b]
// tokens are the prompt; tokens before it, rounded up to whole groups, follow HierGen's rule, later ones the latents
// rolled out from there, teacher-forced inside their own chunk only. Errors: InputError unless L >= 2 and lookback = 0.
// `conditioning`, unless empty, takes those latents: c(l) [B, M_l, D_l] in the model's memory and dtype, l = 1 .. L-1
// (padded length), of which row b's units from its rounded prompt on are written and the others left.
Tensor recgen_hidden(Model& model, const Context& ctx, const Batch& batch, std::span<const std::int64_t> prompt_tokens,
                     std::span<const TensorView> conditioning = {});

// InputError naming what this model lacks for RecGen; returns when it can.
void require_recgen(const ModelConfig& config);

}  // namespace photon
