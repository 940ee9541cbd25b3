// Which ranks decode what: replicas of the whole model, or coarse ranks with level-1 decoder shards, and what they
// would reach on a cluster.
//
// A group of ranks is one rank with the whole model (layout a), or a coarse rank (encoders, their caches, the decoders
// above level 1) and K shards of level 1 (layout b); several groups are replicas (a, c). A coarse rank keeps `cohorts`
// steps of different rows under way (in RecGen roll-outs and calls of chunks), so that neither side waits: with A and S
// the seconds of a cohort's macro-step on the coarse rank and on a shard and M those of its messages, all cohorts
// advance by one macro-step in max(cohorts A, cohorts S, A + S + M).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "partition/decode_cost.hpp"
#include "partition/decode_layout.hpp"

namespace photon {

struct DecodeAsk {
  DecodeMode mode = DecodeMode::hiergen;
  Precision precision = Precision::bf16;
  std::int64_t prompt_tokens = 128;
  std::int64_t new_tokens = 256;
  std::int64_t batch = 0;    // sequences in flight over all ranks; 0: what is fastest
  std::int64_t shards = -1;  // of a coarse rank: 0 for replicas of the whole model, -1: any number
};

// What one rank of a group does and holds.
struct DecodeRank {
  DecodeRole role = DecodeRole::whole;
  std::int64_t rows = 0;  // at most
  DecodeMemory memory;
  DecodeSeconds busy;     // for group_tokens() tokens of every row of the group
  double sent_bytes = 0;  // in that time
};

// What a layout would reach.
struct DecodeForecast {
  DecodeLayout layout;
  std::string problem;                      // why it cannot be; the rest is then empty but for most_rows
  std::int64_t most_rows = 0;               // of a group, by memory
  std::int64_t rows = 0;                    // of the fullest group
  std::int64_t capacity = 0;                // tokens that caches are made for
  double step_seconds = 0;                  // for group_tokens() tokens of every row
  double message_seconds = 0;               // of a cohort's way to the shards and back, in that time
  double tokens_per_second = 0;             // over all ranks, decoding alone
  double end_to_end_tokens_per_second = 0;  // with the encoding of prompts
  std::vector<DecodeRank> ranks;            // of the fullest group: the whole one; or the coarse one and a shard
  std::string bound;                        // what the step waits for, in words

  bool possible() const { return problem.empty(); }
  std::int64_t over_all(std::int64_t rows_of_a_group) const { return rows_of_a_group * layout.num_groups(); }
};

struct DecodePlan {
  std::vector<DecodeForecast> layouts;  // every way to divide the ranks; impossible ones with their problem
  std::size_t chosen = 0;               // the fastest; replicas where others are within 2 %
  std::string reason;
  const DecodeForecast& best() const { return layouts[chosen]; }
};

// Errors: InputError when the mode is none of the model's, or no layout fits, with the nearest that does.
DecodePlan plan_decode(const ModelConfig& config, const Cluster& cluster, const DecodeAsk& ask);

// "4 replicas", "1 coarse rank + 3 shards", "2 x (coarse rank + 1 shard)".
std::string layout_text(const DecodeLayout& layout);
const char* name_of(DecodeRole role);  // "whole", "coarse", "shard"

}  // namespace photon
