// Level 1 of decoding apart from the coarse stream: what a rank that decodes chunks for another one is asked, and does.
// How the two reach each other is not known here.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "model/chunk_decoder.hpp"

namespace photon {

// The rows of a step, n of them, and all that drawing their tokens takes beside c(1).
struct ChunkRows {
  std::int64_t num_tokens = 0;  // of a row in this step: a multiple of C_1
  std::int64_t capacity = 0;    // no row has more tokens than this, the step's included
  bool logprobs = false;
  bool direct = false;               // the step's tokens are for ChunkLink::receive_into()
  std::int64_t top_logprobs = 0;     // as DecoderOptions
  std::vector<DrawRow> draws;        // n; position: of the row's first token in this step. Slots are not looked at
  std::vector<std::int32_t> forced;  // [n, num_tokens]: a token, or draw_token
  std::vector<std::int64_t> before_begin;  // [n + 1]: where each row's part of `before` begins
  std::vector<std::int32_t> before;        // the tokens before the step that a row needs, up to its first one: all of
                                           // them for a repetition penalty, the lookback's else

  std::int64_t size() const { return static_cast<std::int64_t>(draws.size()); }
  // Rows begin .. end-1 alone.
  ChunkRows part(std::int64_t begin, std::int64_t end) const;
};

// Some rows of a chunk's tokens in memory of the coarse stream's space.
struct ChunkPart {
  std::int64_t begin = 0;                 // of its rows among the step's
  std::vector<ConstTensorView> tokens;    // [rows] i32 for each token; failed_token where the row failed
  std::vector<ConstTensorView> logprobs;  // [rows] f32 for each token; none unless asked for
};

// Who decodes chunks for a coarse stream. A few steps, of different rows, may be under way: each is a cohort.
class ChunkLink {
 public:
  virtual ~ChunkLink() = default;
  virtual std::int64_t num_cohorts() const = 0;
  // Begins a step. The cohort's last one has ended.
  virtual void open(std::int64_t cohort, const ChunkRows& rows) = 0;
  // Asks for the step's tokens offset .. offset + C_1 - 1, from c [n, D_1], which stays until receive().
  virtual void send(std::int64_t cohort, std::int64_t offset, const ConstTensorView& c) = 0;
  // Waits for them: [n, C_1].
  virtual StepResult receive(std::int64_t cohort) = 0;
  // Whether tokens come into memory of the coarse stream's space, from GPU to GPU, and the host need not see them: then
  // steps that are opened as `direct` take receive_into() in place of receive().
  virtual bool direct() const { return false; }
  // The bytes of a chunk's tokens, of the step that is open.
  virtual std::int64_t answer_bytes(std::int64_t cohort) const;
  // On a device in the order of its stream: the host does not wait. memory [answer_bytes()] u8 stays as long as the
  // result is used.
  virtual std::vector<ChunkPart> receive_into(std::int64_t cohort, const TensorView& memory);
  // Polls until the host sees `done`, e.g. that a device has come so far, with the deadline of a receive.
  virtual void wait_until(const std::function<bool()>& done);
  // Called between pieces of work, for what must go on beside it.
  virtual void advance() {}
};

// The rank that decodes. Between steps it keeps nothing of any row.
class ChunkServer {
 public:
  // `config` and `weights` outlive it: embedding, level 1's converter and decoder, head.
  ChunkServer(const ModelConfig& config, const PhotonTensors& weights, DType dtype, const Context& ctx);

  void open(std::int64_t cohort, ChunkRows rows);
  // [n, D_1] of the cohort's step, to be filled before start().
  TensorView latents(std::int64_t cohort);
  // Begins the chunk; on a device the host goes on, e.g. to another cohort's.
  void start(std::int64_t cohort, std::int64_t offset);
  // Whether take() returns at once.
  bool ready(std::int64_t cohort) const { return cohorts_.at(static_cast<std::size_t>(cohort)).steps->ready(); }
  StepResult take(std::int64_t cohort);
  // In place of these for a step that is `direct`: the tokens stay here until the cohort's next chunk, as
  // StepQueue::run_in_place() leaves them.
  bool direct(std::int64_t cohort) const { return cohorts_.at(static_cast<std::size_t>(cohort)).rows.direct; }
  ConstTensorView start_in_place(std::int64_t cohort, std::int64_t offset);

  std::int64_t chunk_tokens() const { return chunk_tokens_; }
  std::int64_t cache_bytes() const;  // of all cohorts

 private:
  struct Cohort {
    ChunkRows rows;
    Tensor history;  // [rows and one for padding, capacity] i32
    Tensor latents;  // [rows, D_1]
    std::unique_ptr<StepQueue> steps;
    bool logprobs = false;
    std::int64_t top_logprobs = 0;
  };
  bool on_device() const { return ctx_.space == Space::device; }
  StepInput input_of(const Cohort& cohort, std::int64_t offset) const;
  void decode(const Cohort& cohort, const StepBlock& block);
  Cohort& cohort(std::int64_t number) { return cohorts_.at(static_cast<std::size_t>(number)); }
  void forget_graphs();

  Context ctx_;
  DType dtype_;
  std::int64_t width_;  // D_1
  std::int64_t chunk_tokens_;
  std::int64_t lookback_;
  ChunkDecoder chunk_;
  Arena arena_;
  std::vector<Cohort> cohorts_;
};

}  // namespace photon
