// PHOTON's decoding without level 1: encoders, caches and the decoders above level 1 are here, chunks of tokens are
// decoded by others (chunk_server.hpp). Results are those of PhotonDecoder.
//
// Steps of different rows go on side by side, so that there is work here while others decode the chunks of another
// step, or of another call of rolled-out rows. All waiting is in take_step() and take_chunks(). Where the link is
// direct, a step's tokens stay on the device until the step is done, and the host queues work a chunk ahead of it.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "model/chunk_server.hpp"
#include "model/photon_decoder.hpp"
#include "tensor/graph.hpp"

namespace photon {

class CoarseDecoder : public PhotonDecoder {
 public:
  // `weights` hold everything above level 1's decoder, embedding and encoder 1 included. `link` outlives it.
  CoarseDecoder(const ModelConfig& config, const PhotonTensors& weights, DType dtype, const Context& ctx,
                std::int64_t num_slots, std::int64_t max_tokens, const DecoderOptions& options, ChunkLink& link);

  std::int64_t num_cohorts() const override { return link_.num_cohorts(); }
  std::int64_t cache_bytes() const override;
  void clear(std::int64_t slot) override;
  void copy_slot(std::int64_t from, std::int64_t to) override;
  void prefill(std::span<const std::int64_t> slots, std::span<const std::span<const std::int32_t>> prompts) override;
  void step_group(const GroupStep& step) override;
  StepResult take_step() override;
  void start_chunks(const ConstTensorView& latents, const ChunkStep& step) override;
  StepResult take_chunks() override;

 private:
  // A step or a call of chunks under way, and what it keeps between chunks; vectors by level from 1 on.
  struct Cohort {
    std::vector<std::int64_t> slots;  // empty: neither
    std::vector<std::int64_t> positions;
    std::int64_t offset = 0;  // of the chunk that others decode
    bool done = false;
    StepResult result;
    std::vector<LocalDecoder> locals;  // [l - 2]
    std::int64_t rows = 0;             // there is room for
    Tensor slot;                       // [rows] i32
    Tensor lower;                      // [rows] i32: of the caches below the top
    std::vector<Tensor> first_unit;    // [rows] i32: encoder l's next unit
    std::vector<Tensor> c;             // [rows, D_l]
    std::vector<Tensor> units;         // [rows, C_l, D_{l-1}]
    Tensor tokens;                     // [rows, C_1] i32
    // Of a direct link: the step's tokens as they came, chunk behind chunk, and their way to the host.
    Tensor answers;  // u8
    PinnedBuffer read;
    std::vector<std::vector<ChunkPart>> parts;  // of each chunk
    std::optional<Event> embedded;              // behind the last chunk's tokens; on a device
    std::optional<Event> arrived;               // behind the copies to `read`
    Tensor chunk_index;                         // of a call of chunks: [n] i32
    Tensor chunk_c;                             // [n, D_1]
  };

  // Whether tokens go from device to device. Those with likeliest tokens beside them take the way by the host.
  bool direct() const { return link_.direct() && top_logprobs_ == 0; }
  std::vector<std::int32_t>& tokens_of(std::int64_t slot) { return tokens_[static_cast<std::size_t>(slot)]; }
  void reserve(Cohort& cohort, std::int64_t rows);
  std::size_t free_cohort() const;
  // Adds a row that draws `num_tokens` tokens from `position` on.
  void add_row(ChunkRows& rows, std::int64_t slot, std::int64_t position, const RowDraw& draw);
  // Of a cohort's rows: level l's conditioning, units, and unit j of those.
  TensorView latents_of(const Cohort& cohort, std::int64_t l) const;
  TensorView units_of(const Cohort& cohort, std::int64_t l) const;
  TensorView unit_of(const Cohort& cohort, std::int64_t l, std::int64_t j) const;
  // From the levels that begin a group at the offset down to c(1), which goes off.
  void descend(std::size_t number);
  void between_groups() override { link_.advance(); }
  void reserve_answers(std::size_t number);
  // A chunk's tokens into encoder 1's units: by way of the host, or as a direct link brings them.
  void embed_received(std::size_t number);
  void embed_in_place(std::size_t number);
  // After the last chunk of a direct link's step: the tokens to the host, queued here and awaited there.
  void queue_answers(Cohort& cohort);
  void read_answers(Cohort& cohort);
  // The tokens that came: into the encoders, as far as units are complete; then to the next chunk or the step's end.
  void ascend(std::size_t number);

  ChunkLink& link_;
  bool logprobs_;
  std::int64_t top_logprobs_;
  std::vector<std::vector<std::int32_t>>
      tokens_;  // of each slot, by position; in rolled-out ones zeros where not known
  std::vector<Cohort> cohorts_;
  std::deque<std::size_t> order_;        // of the steps under way, oldest first
  std::deque<std::size_t> chunk_order_;  // of the calls of chunks
};

}  // namespace photon
