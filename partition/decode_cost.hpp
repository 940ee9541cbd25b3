// What a step of decoding costs a rank, from the blueprint: matrix products, weights read, caches read, activations
// written and read, ops started; and what ranks hold while they decode. Pure functions; nothing is measured here.
//
// A rank decodes `rows` sequences side by side. HierGen advances them by one top-level group of G = C_<=L tokens a
// macro-step (a vanilla model by one token). Each op takes the longer of its arithmetic (FLOPs over the matrix rate)
// and its memory traffic (bytes over the memory bandwidth), and `op_overhead` besides; ops run one after another. A
// product of more than few_rows rows takes its latency besides; one of fewer reads its weights, the more slowly the
// more rows there are.
#pragma once

#include <cstdint>

#include "config/model_config.hpp"
#include "config/run_config.hpp"
#include "partition/cluster.hpp"
#include "partition/decode_layout.hpp"

namespace photon {

enum class DecodeMode : std::uint8_t { hiergen, recgen };

// Seconds by what they are bound by. An op counts where its longer side lies.
struct DecodeSeconds {
  double arithmetic = 0;   // matrix products at the matrix rate
  double weights = 0;      // matrix products that wait for their weights
  double caches = 0;       // keys and values read and written
  double activations = 0;  // norms, products that wait for their rows, logits and draws
  double ops = 0;          // op_overhead, and the latency of products
  double total() const { return arithmetic + weights + caches + activations + ops; }

  DecodeSeconds& operator+=(const DecodeSeconds& other);
};
DecodeSeconds operator*(double factor, DecodeSeconds seconds);

// Of one rank.
class DecodeCost {
 public:
  DecodeCost(const ModelConfig& config, const Cluster& cluster, Precision precision);

  // A chunk of C_1 tokens of every row: converter 1, decoder 1, head and draws.
  DecodeSeconds chunk(std::int64_t rows) const;
  // A level-l group of every row, l >= 2: converter l and decoder l over its C_l units.
  DecodeSeconds group(std::int64_t l, std::int64_t rows) const;
  // Encoder l by one unit of every row, chunker included; `tokens` are what the rows hold on average.
  DecodeSeconds encoder(std::int64_t l, std::int64_t rows, double tokens) const;
  // HierGen's macro-step but for its chunks; all of it.
  DecodeSeconds coarse_step(std::int64_t rows, double tokens) const;
  DecodeSeconds whole_step(std::int64_t rows, double tokens) const;
  // RecGen's roll-out of `groups` groups of every row, down to c(1).
  DecodeSeconds roll_out(std::int64_t rows, std::int64_t groups, double tokens) const;
  // Encoding `tokens` prompt tokens: the encoders' (a vanilla model's) forward FLOPs at the matrix rate.
  double prefill_seconds(std::int64_t tokens) const;

  std::int64_t tokens_a_step() const { return config_.group_tokens(); }
  std::int64_t element() const { return element_; }

 private:
  // y [n, out] = x [n, in] W.
  void product(DecodeSeconds& sum, double n, double in, double out) const;
  void traffic(double& part, DecodeSeconds& sum, double bytes) const;
  // A stack over `positions` new positions of each of `rows` sequences, which see `keys` positions on average.
  void stack(DecodeSeconds& sum, const StackConfig& stack, std::int64_t width, double rows, double positions,
             double keys) const;
  void local(DecodeSeconds& sum, std::int64_t l, double rows) const;
  void head(DecodeSeconds& sum, double rows) const;

  const ModelConfig& config_;
  const Cluster& cluster_;
  std::int64_t element_;
};

// Bytes a rank holds while it decodes.
struct DecodeMemory {
  std::int64_t weights = 0;       // fp32, and a copy in bf16 where that is the precision
  std::int64_t top_cache = 0;     // encoder L's keys and values (a vanilla model's)
  std::int64_t lower_caches = 0;  // of the encoders below, rings where they have windows
  std::int64_t local_caches = 0;  // of the local decoders
  std::int64_t latents = 0;       // X(L) of the last group, tokens looked back at; of a shard c(1) and its rows' tokens
  std::int64_t step = 0;          // activations of a step's rows
  std::int64_t staging = 0;       // messages on their way
  std::int64_t reserve = 0;       // encoding prompts, RecGen's chunks in a call, the GPU's libraries
  std::int64_t total() const {
    return weights + top_cache + lower_caches + local_caches + latents + step + staging + reserve;
  }
  std::int64_t caches() const { return top_cache + lower_caches + local_caches + latents; }
};

// How much a GPU does at once beside a step of all rows, and the bytes that this takes: less where there is little
// memory, so that caches keep most of it.
struct DecodeReserve {
  std::int64_t prefill_tokens = device_prefill_tokens;  // prompt tokens encoded in one call
  std::int64_t max_chunks = device_max_chunks;          // RecGen: chunks decoded in one call
  std::int64_t bytes = 0;
};
// `room`: bytes that are there beside weights and libraries. `chunks`: whether RecGen's are decoded here.
DecodeReserve decode_reserve(const ModelConfig& config, std::int64_t element, bool chunks, std::int64_t room);

// What a rank is in the layouts of decoding.
enum class DecodeRole : std::uint8_t { whole, coarse, shard };

// `rows` sequences of up to `capacity` tokens (of a shard: its share of its group's), dealt to `cohorts` steps that are
// under way at once; 1 for a rank with the whole model. bf16 is taken for a
// GPU, where steps and the reserve are counted as the engine counts them on a card of `card_bytes`; fp32 for a CPU,
// where it counts caches alone.
DecodeMemory decode_memory(const ModelConfig& config, Precision precision, DecodeMode mode, DecodeRole role,
                           std::int64_t rows, std::int64_t capacity, std::int64_t cohorts, std::int64_t card_bytes);

// The length that the engine makes caches for where rows need `tokens`: classes, so that they are seldom made anew.
std::int64_t decode_capacity(const ModelConfig& config, std::int64_t tokens);

}  // namespace photon
