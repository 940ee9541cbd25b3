// Incremental decoding of the vanilla Transformer: a macro-step is one token.
#pragma once

#include "model/cached_stack.hpp"
#include "model/incremental.hpp"
#include "model/prefill_clock.hpp"
#include "model/step_queue.hpp"
#include "model/vanilla_model.hpp"

namespace photon {

class VanillaDecoder : public IncrementalDecoder {
 public:
  VanillaDecoder(VanillaModel& model, const Context& ctx, std::int64_t num_slots, std::int64_t max_tokens,
                 const DecoderOptions& options = {});

  std::int64_t group_tokens() const override { return 1; }
  std::int64_t num_slots() const override { return static_cast<std::int64_t>(lengths_.size()); }
  std::int64_t max_tokens() const override { return max_tokens_; }
  std::int64_t cache_bytes() const override;
  std::int64_t length(std::int64_t slot) const override { return lengths_.at(static_cast<std::size_t>(slot)); }
  bool asynchronous() const override { return ctx_.space == Space::device; }
  void clear(std::int64_t slot) override { lengths_.at(static_cast<std::size_t>(slot)) = 0; }
  void copy_slot(std::int64_t from, std::int64_t to) override;
  void prefill(std::span<const std::int64_t> slots, std::span<const std::span<const std::int32_t>> prompts) override;
  double prefill_device_seconds() const override { return clock_.seconds(); }
  void synchronize() override {
    if (asynchronous()) device::synchronize(ctx_.stream);
  }
  void step_group(const GroupStep& step) override;
  StepResult take_step() override { return steps_.take(); }
  ConstTensorView roll_out(std::span<const std::int64_t> slots, std::int64_t num_groups) override;
  void start_chunks(const ConstTensorView& latents, const ChunkStep& step) override;
  StepResult take_chunks() override;

 private:
  void reserve(std::int64_t rows);
  void run(const StepBlock& block);

  VanillaModel& model_;
  Context ctx_;
  DType dtype_;
  std::int64_t max_tokens_;
  std::vector<std::int64_t> lengths_;  // tokens of each slot; its cache holds [start, t_0 .. t_{length-2}]
  CachedStack stack_;
  KvCache cache_;
  Tensor history_;  // [slots and one for padding, max_tokens] i32
  Arena arena_;
  Arena prefill_arena_;
  StepQueue steps_;
  PrefillClock clock_;
};

}  // namespace photon
