// Which rank does what when a job of prompts is decoded on several: replicas of a group of ranks. A group is one rank
// with the whole model; or, with shards, a coarse rank (encoders, the decoders above level 1 and all caches) and the
// ranks that decode level 1's chunks for it.
#pragma once

#include <cstdint>

#include "config/model_config.hpp"

namespace photon {

// Cohorts of rows that a coarse rank keeps under way, so that neither it nor its shards wait.
inline constexpr std::int64_t decode_cohorts = 2;
// Chunks that RecGen decodes in one call.
inline constexpr std::int64_t host_max_chunks = 1024;
inline constexpr std::int64_t device_max_chunks = 8192;
// Rows whose prompts RecGen completes at once: so many have caches of the encoders below the top.
inline constexpr std::int64_t recgen_prompt_rows = 256;
// Prompt tokens that a GPU encodes in one call.
inline constexpr std::int64_t device_prefill_tokens = 16384;
// Of a GPU, for libraries and recorded graphs.
inline constexpr std::int64_t device_spare_bytes = std::int64_t{2} << 30;

struct DecodeLayout {
  int num_ranks = 1;
  int shards = 0;  // of a group; 0: each rank has the whole model

  int ranks_per_group() const { return 1 + shards; }
  int num_groups() const { return num_ranks / ranks_per_group(); }
  // Ranks are numbered group by group, in each the coarse one first.
  int group_of(int rank) const { return rank / ranks_per_group(); }
  // Whether the rank takes prompts: one rank of each group does.
  bool takes_prompts(int rank) const { return rank % ranks_per_group() == 0; }
};

// Errors: InputError, with the nearest numbers that fit, when the ranks do not divide into groups of one and `shards`.
DecodeLayout decode_layout(int num_ranks, int shards);

// Errors: InputError for a model that cannot be divided so, naming what it lacks.
void require_decoder_shards(const ModelConfig& config);

}  // namespace photon
