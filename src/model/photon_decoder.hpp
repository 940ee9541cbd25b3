// Incremental decoding of PHOTON: HierGen by recursion over the levels, RecGen by a coarse roll-out (docs/decoding.md).
#pragma once

#include <optional>

#include "model/chunk_decoder.hpp"
#include "model/incremental.hpp"
#include "model/photon_model.hpp"
#include "model/prefill_clock.hpp"
#include "model/step_queue.hpp"

namespace photon {

class PhotonDecoder : public IncrementalDecoder {
 public:
  // `config` and `weights` outlive it. Without a head among the weights it has no level 1: CoarseDecoder.
  PhotonDecoder(const ModelConfig& config, const PhotonTensors& weights, DType dtype, const Context& ctx,
                std::int64_t num_slots, std::int64_t max_tokens, const DecoderOptions& options = {});

  std::int64_t group_tokens() const override { return config_.group_tokens(); }
  std::int64_t num_slots() const override { return num_slots_; }
  std::int64_t max_tokens() const override { return max_tokens_; }
  std::int64_t cache_bytes() const override;
  std::int64_t length(std::int64_t slot) const override { return slots_.at(static_cast<std::size_t>(slot)).length; }
  bool asynchronous() const override { return on_device(); }
  void clear(std::int64_t slot) override;
  std::int64_t prompt_rows() const override { return lower_rows_; }
  void finish_prompt(std::int64_t slot) override;
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
  StepResult take_chunks() override { return chunks_.take(); }
  // c(l) of the last roll-out, of `rows` rows by `num_groups` groups: [rows, num_groups * C_<=L / C_<=l, D_l], l = 1 ..
  // L-1. Stays until the next one.
  ConstTensorView rolled(std::int64_t l, std::int64_t rows, std::int64_t num_groups) const;

 protected:
  struct Slot {
    std::int64_t length = 0;   // tokens
    bool coarse_only = false;  // rolled out: the encoders below the top have stopped
    std::int64_t lower = -1;   // its row of their caches, where there are fewer of those than slots
  };
  // Recorded groups of a roll-out, for one number of rows and of groups.
  struct RecordedRoll {
    std::int64_t num_runs = 0;
    Graph graph;
  };

  const LevelConfig& level_config(std::int64_t l) const { return config_.levels[static_cast<std::size_t>(l - 1)]; }
  const LevelTensors& level_tensors(std::int64_t l) const { return weights_.levels[static_cast<std::size_t>(l - 1)]; }
  CachedStack& encoder(std::int64_t l) { return encoders_[static_cast<std::size_t>(l - 1)]; }
  LocalDecoder& local(std::int64_t l) { return locals_[static_cast<std::size_t>(l - 2)]; }
  bool on_device() const { return ctx_.space == Space::device; }
  std::int64_t checked(std::int64_t slot) const;
  // The slot's row of the caches below the top; one that is free, if it has none yet.
  std::int32_t lower_row(std::int64_t slot);
  // Which row of latents_ is c(L) of a slot's next group.
  std::int32_t latent_row(std::int64_t slot) const;
  // Where a step's indices hold the position of encoder l's unit of that number in the group.
  std::size_t unit_index(std::int64_t l, std::int64_t unit) const;

  // Room for calls of `rows` rows: of the level-1 decoder alone, or of every level.
  void reserve(std::int64_t rows, bool level_1_only);
  std::int64_t step_bytes(std::int64_t rows) const;  // of every level

  // Decodes one level-l group of every row and advances encoder l: x [n, D_l] = X(l) of that group.
  void decode_group(std::int64_t l, const StepBlock& block, const ConstTensorView& c, std::int64_t offset,
                    const TensorView& x);
  // Units [n, C_l, D_{l-1}] -> chunker, encoder l, one step: x [n, D_l].
  void advance_encoder(std::int64_t l, const ConstTensorView& units, const ConstTensorView& slot,
                       const ConstTensorView& first, const TensorView& x);
  // Level 1's part of a step: its chunk at `offset`.
  ChunkCall chunk_call(const StepBlock& block, std::int64_t offset) const;
  // Level-l groups whose content is their own reconstruction: c [n, D_l] -> y [n, C_l, D_{l-1}].
  void render_own(std::int64_t l, const ConstTensorView& c, const TensorView& y);
  // One group of a roll-out.
  void roll_group(std::int64_t rows);
  // Called between a roll-out's groups, or several of them, for what must go on beside it.
  virtual void between_groups() {}

  const ModelConfig& config_;
  const PhotonTensors& weights_;
  Context ctx_;
  DType dtype_;
  std::int64_t num_slots_;
  std::int64_t total_slots_;  // and one for rows that pad a step
  std::int64_t lower_rows_;   // slots that the caches of encoders below the top have room for
  std::int64_t max_tokens_;
  std::vector<Slot> slots_;
  std::vector<std::int64_t> free_lower_;
  std::vector<CachedStack> encoders_;  // [l - 1]
  std::vector<KvCache> encoder_caches_;
  std::vector<LocalDecoder> locals_;   // [l - 2], of the levels above 1
  std::optional<ChunkDecoder> chunk_;  // of level 1, where that is decoded here
  Tensor latents_;                     // [total slots + 1, D_L] X(L) of the last group; the last row is start_latent
  Tensor history_;                     // [total slots, max_tokens] i32, where level 1 is decoded here
  // What calls share. Steps are recorded with these addresses: whatever replaces one of them forgets the graphs.
  std::int64_t rows_ = 0;          // of calls that use every level
  std::int64_t level_1_rows_ = 0;  // of calls that use level 1 alone
  Arena arena_;
  Arena prefill_arena_;
  StepQueue steps_;
  StepQueue chunks_;
  PrefillClock clock_;
  // A roll-out's state between groups, and what it gives.
  Tensor roll_slot_;                     // [rows] i32
  Tensor roll_at_;                       // [2 rows] i32
  Tensor rolled_;                        // [rows, D_{L-1}]
  const void* chunk_latents_ = nullptr;  // what recorded chunks read
  bool graphs_;
  std::vector<Tensor> middle_;                                                    // of the levels between
  std::map<std::pair<std::int64_t, std::int64_t>, RecordedRoll> recorded_rolls_;  // by rows and groups
};

}  // namespace photon
