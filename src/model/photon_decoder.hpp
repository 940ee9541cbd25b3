// Incremental decoding of PHOTON: HierGen by recursion over the levels, RecGen by a coarse roll-out (docs/decoding.md).
#pragma once

#include <deque>

#include "model/incremental.hpp"
#include "model/photon_model.hpp"

namespace photon {

class PhotonDecoder : public IncrementalDecoder {
 public:
  PhotonDecoder(PhotonModel& model, const Context& ctx, std::int64_t num_slots, std::int64_t max_tokens);

  std::int64_t group_tokens() const override { return config_.group_tokens(); }
  std::int64_t num_slots() const override { return static_cast<std::int64_t>(slots_.size()); }
  std::int64_t max_tokens() const override { return max_tokens_; }
  std::int64_t cache_bytes() const override {
    return num_slots() * slot_cache_bytes(config_, max_tokens_, model_.dtype());
  }
  std::int64_t length(std::int64_t slot) const override { return slots_.at(static_cast<std::size_t>(slot)).length; }
  void clear(std::int64_t slot) override;
  void copy_slot(std::int64_t from, std::int64_t to) override;
  void prefill(std::span<const std::int64_t> slots, std::span<const std::span<const std::int32_t>> prompts) override;
  void step_group(std::span<const std::int64_t> slots, TokenChooser& chooser) override;
  Tensor roll_out(std::span<const std::int64_t> slots, std::int64_t num_groups) override;
  void decode_chunks(const ConstTensorView& conditioning, TokenChooser& chooser) override;

 private:
  // Room for activations.
  TensorView floats(Arena& arena, const Shape& shape) const { return arena.allocate(model_.dtype(), shape); }

  struct Slot {
    std::int64_t length = 0;          // tokens
    std::vector<std::int32_t> units;  // units each encoder has seen, l = 1 .. L at [l - 1]
    std::deque<std::int32_t> recent;  // the last `lookback` tokens
    bool coarse_only = false;         // rolled out: the encoders below the top have stopped
  };
  // A call's rows: which slots they are, as ops read them.
  struct Rows {
    std::span<const std::int64_t> slots;
    std::vector<std::int32_t> ids;      // slots as i32
    std::vector<std::int32_t> indices;  // 0 .. n-1: rows of the local decoders' caches
    std::int64_t count() const { return static_cast<std::int64_t>(slots.size()); }
  };
  Rows make_rows(std::span<const std::int64_t> slots) const;

  const LevelConfig& level_config(std::int64_t l) const { return config_.levels[static_cast<std::size_t>(l - 1)]; }
  const LevelTensors& level_tensors(std::int64_t l) const {
    return model_.tensors().levels[static_cast<std::size_t>(l - 1)];
  }
  // The caches of the level-l local decoder for at least `rows` rows.
  KvCache& local_cache(std::int64_t l, std::int64_t rows);
  // An arena that a call over `rows` rows of the local decoders and encoders cannot overflow.
  void reserve_step(std::int64_t rows);

  // c [n, D_l] -> y [n, 1, D_{l-1}]: the first reconstruction of a level-l group. `rows` names the slots whose tokens
  // are looked back at; null where there is no lookback.
  void local_start(std::int64_t l, const ConstTensorView& c, std::span<const std::int32_t> indices, const Rows* rows,
                   const TensorView& y);
  // content [n, D_{l-1}] (unit j of the group) -> y: reconstruction j + 1.
  void local_next(std::int64_t l, std::int64_t j, const ConstTensorView& content, std::span<const std::int32_t> indices,
                  const TensorView& y);
  // Decodes one level-l group of every row and advances encoder l: x [n, D_l] = X(l) of that group.
  void decode_group(std::int64_t l, const Rows& rows, const ConstTensorView& c, std::int64_t offset,
                    TokenChooser& chooser, const TensorView& x);
  // Units [n, C_l, D_{l-1}] -> chunker, encoder l, one step: x [n, D_l].
  void advance_encoder(std::int64_t l, const Rows& rows, const ConstTensorView& units, const TensorView& x);
  // y [n, 1, D_0] -> head -> chooser -> tokens; embedded into x [n, D_0].
  std::vector<std::int32_t> choose_tokens(const ConstTensorView& y, std::int64_t offset, TokenChooser& chooser,
                                          const TensorView& x);
  // Level-l groups whose content is their own reconstruction: c [n, D_l] -> y [n, C_l, D_{l-1}].
  void render_own(std::int64_t l, const ConstTensorView& c, const TensorView& y);
  void gather_latents(const Rows& rows, const TensorView& c) const;  // c(L) of every row
  void scatter_latents(const Rows& rows, const ConstTensorView& x);  // X(L) becomes the next c(L)

  PhotonModel& model_;
  const ModelConfig& config_;
  Context ctx_;
  std::int64_t max_tokens_;
  std::vector<Slot> slots_;
  std::vector<KvCache> encoder_caches_;  // [l - 1]
  std::vector<KvCache> local_caches_;    // [l - 1]
  Tensor latents_;                       // [slots, D_L] X(L) of the last group
  Arena arena_;
};

}  // namespace photon
