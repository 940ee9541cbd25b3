// The plan: which rank hosts what, what crosses between ranks, and how the batch of a step is dealt to replicas,
// microbatches and shards.
//
// A replica is a pipeline of stages; each hosts some layers of the chain (blueprint/modules.hpp). The last stage may
// have several shards: ranks that hold the same decoders and take different groups of every microbatch. All other
// stages are one rank.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "blueprint/activations.hpp"
#include "blueprint/modules.hpp"
#include "config/run_config.hpp"

namespace photon {

// A rank's place in the layout.
struct RankRole {
  std::int64_t replica = 0;
  std::int64_t stage = 0;
  std::int64_t shard = 0;
  bool operator==(const RankRole&) const = default;
};

// What a stage holds of a module of the chain.
struct HostedModule {
  std::int64_t module = 0;
  std::string name{};  // "decoder1", "encoder2.1-3"
  bool operator==(const HostedModule&) const = default;
};

struct StagePlan {
  LayerRange layers;
  std::int64_t shards = 1;
  std::vector<HostedModule> modules{};  // in the order of the chain
};

// A tensor between stages, or the gradient of the loss by it. For a microbatch of B sequences, in the type of the
// activations:
//   encoder_state l = 1 .. L-1: X(l) [B, M_l, D_l], which encoder l gives to encoder l+1 and decoder l+1
//   conditioning L:             c(L) [B, M_L, D_L], which encoder L gives to decoder L
//   reconstruction l = 1 .. L-1: Y(l) [B, M_l, D_l], which decoder l+1 gives to decoder l
//   stream p: the residual stream into layer p of the chain, where that is not the first of its stack: [B, M_l, D_l] in
//     encoder l, [B M_l, decoder_positions(l), D_{l-1}] in decoder l, [B, T, D] in a vanilla model
// Tokens cross nowhere: every rank reads those of its replica.
struct Boundary {
  enum class Kind : std::uint8_t { none, encoder_state, conditioning, reconstruction, stream };
  Kind kind = Kind::none;
  std::int64_t level = 0;  // the layer of a stream
  bool gradient = false;

  bool operator==(const Boundary&) const = default;
  std::string str() const;  // "X(1)", "dY(2)", "c(2)", "h(3)"
};

// A boundary tensor that one stage makes and another reads; its gradient goes the other way.
struct Crossing {
  Boundary tensor;
  std::int64_t from = 0;  // stages
  std::int64_t to = 0;
  bool returns = true;  // whether the reader has a gradient of it (not where it only measures a distance to X(l))
};

struct Plan {
  std::int64_t num_ranks = 1;  // of all replicas, where `ranks` has one alone too (one_replica())
  std::int64_t replicas = 1;
  std::int64_t stages = 1;
  std::int64_t shards = 1;           // of the last stage
  std::int64_t batch_size = 0;       // sequences a step over all ranks
  std::int64_t microbatch_size = 0;  // sequences a forward and backward on one replica
  bool zero = false;                 // ranks that hold the same tensors divide the optimizer's moments
  PassOptions passes{};              // what ranks keep of a microbatch
  bool whole_sequences = false;      // shards take whole sequences (lookback reads tokens of the group before)
  std::vector<RankRole> ranks;
  std::vector<StagePlan> layout;    // a stage each
  std::vector<Crossing> crossings;  // of one replica

  std::int64_t sequences_per_replica() const { return batch_size / replicas; }
  std::int64_t num_microbatches() const { return sequences_per_replica() / microbatch_size; }
  // First sequence of a microbatch of this rank's replica within the step's batch: replicas take contiguous slices.
  std::int64_t first_sequence(std::int64_t rank, std::int64_t microbatch) const;

  std::int64_t ranks_per_replica() const { return stages - 1 + shards; }
  std::int64_t rank_of(const RankRole& role) const;  // replica by replica, in each stage by stage, then the shards
  const RankRole& role(std::int64_t rank) const;
  const StagePlan& stage_of(std::int64_t rank) const;
  // The groups that a rank takes of `sequences` sequences of `groups_per_sequence` groups each: contiguous, as equal as
  // can be, all of them where its stage has one shard.
  GroupRange groups(std::int64_t rank, std::int64_t sequences, std::int64_t groups_per_sequence) const;
  // Ranks of all replicas that hold the tensors of a stage.
  std::int64_t holders(std::int64_t stage) const;
  // Stages that hold the embedding, where they are several: its gradient is then the sum over them.
  std::vector<std::int64_t> embedding_stages{};
  bool holds_embedding(std::int64_t stage) const;
  std::int64_t embedding_holders() const;  // ranks of one replica; 0 where it lies on one stage

  // Forwards that a stage runs ahead of its first backward.
  std::int64_t forwards_ahead(std::int64_t stage, std::int64_t num_microbatches) const;
  // Weight parts of a split backward that a stage leaves for later: as many as let every stage keep as many
  // microbatches as the first one. The last stage, whose gradients all others wait for, then hurries most.
  std::int64_t weights_behind(std::int64_t stage, std::int64_t num_microbatches) const;
  // Microbatches whose forward is done and whose backward is not, at most, in a step of `num_microbatches`.
  std::int64_t max_in_flight(std::int64_t stage, std::int64_t num_microbatches) const;
};

// What a rank hosts, for people: "decoder2 decoder1, shard 1 of 3, replica 2 of 2".
std::string hosted_text(const ModelConfig& config, const Plan& plan, std::int64_t rank);

// Ranks that one replica takes under parallel.stages and parallel.shards.
std::int64_t ranks_per_replica(const ParallelConfig& parallel);

// Where cuts may lie: between modules, where little crosses, or between any layers.
enum class CutPoints : std::uint8_t { modules, layers };
// The layers that begin stages 2, 3, ... so that the most work of any rank is least, with `shards` ranks for the last
// stage, which has decoders only where they are several; nothing where there are too few such points.
std::optional<std::vector<std::int64_t>> balanced_cut(const RunConfig& config, std::int64_t stages, std::int64_t shards,
                                                      CutPoints points);
// Cuts the chain as parallel.stages, shards and cut say; without a cut balanced between modules, or between layers
// where there are more stages than modules. Errors: InputError naming the keys for a cut that is none of this model's.
std::vector<StagePlan> cut_stages(const RunConfig& config);
// What crosses between these stages.
std::vector<Crossing> crossings_of(const RunConfig& config, const std::vector<StagePlan>& layout);

// Memory that a microbatch of the given number of sequences takes for activations and scratch, bytes.
using ArenaBytes = std::function<std::int64_t(std::int64_t)>;

// The largest divisor of `sequences`, at most `most`, whose arena fits the budget; 1 when none does.
std::int64_t choose_microbatch_size(std::int64_t sequences, std::int64_t most, std::int64_t budget_bytes,
                                    const ArenaBytes& arena_bytes);

// Plans `config` for `num_ranks` ranks. parallel.microbatch_size 0 is chosen by `arena_bytes` within `budget_bytes`; a
// pipeline gets, where the batch allows, two microbatches a stage to overlap.
// Errors: InputError naming the keys and numbers for layouts that are not supported or do not divide.
Plan make_plan(const RunConfig& config, std::int64_t num_ranks, std::int64_t budget_bytes,
               const ArenaBytes& arena_bytes);

}  // namespace photon
