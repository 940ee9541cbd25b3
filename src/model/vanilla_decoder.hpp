// Incremental decoding of the vanilla Transformer: a macro-step is one token.
#pragma once

#include "model/incremental.hpp"
#include "model/vanilla_model.hpp"

namespace photon {

class VanillaDecoder : public IncrementalDecoder {
 public:
  VanillaDecoder(VanillaModel& model, const Context& ctx, std::int64_t num_slots, std::int64_t max_tokens);

  std::int64_t group_tokens() const override { return 1; }
  std::int64_t num_slots() const override { return static_cast<std::int64_t>(slots_.size()); }
  std::int64_t max_tokens() const override { return max_tokens_; }
  std::int64_t cache_bytes() const override {
    return num_slots() * slot_cache_bytes(model_.config(), max_tokens_, model_.dtype());
  }
  std::int64_t length(std::int64_t slot) const override { return slots_.at(static_cast<std::size_t>(slot)).length; }
  void clear(std::int64_t slot) override;
  void copy_slot(std::int64_t from, std::int64_t to) override;
  void prefill(std::span<const std::int64_t> slots, std::span<const std::span<const std::int32_t>> prompts) override;
  void step_group(std::span<const std::int64_t> slots, TokenChooser& chooser) override;
  Tensor roll_out(std::span<const std::int64_t> slots, std::int64_t num_groups) override;
  void decode_chunks(const ConstTensorView& conditioning, TokenChooser& chooser) override;

 private:
  struct Slot {
    std::int64_t length = 0;   // tokens; the cache holds [start, t_0 .. t_{length-2}]
    std::int32_t pending = 0;  // the next input: the last token, or the start token
  };

  VanillaModel& model_;
  Context ctx_;
  std::int64_t max_tokens_;
  std::vector<Slot> slots_;
  KvCache cache_;
  Arena arena_;
};

}  // namespace photon
