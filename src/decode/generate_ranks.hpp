// The generate job on the ranks of a world, each with the whole model. Rank 0 reads the prompts and deals out rows;
// each rank, rank 0 among them, decodes and appends what it has finished to its own part beside the output; at the end
// rank 0 joins the parts. Nobody waits for another rank while it has rows.
#pragma once

#include <functional>

#include "comm/world.hpp"
#include "decode/decode_group.hpp"
#include "decode/generate.hpp"

namespace photon {

// Collective; one rank will do. Runs the job, or goes on with one that any number of ranks left, or one process. The
// summary is that of all ranks on rank 0, elsewhere of the own rows. Errors: as generate(), Preempted on all ranks
// together; RankError when a rank has died or gives no sign of life.
GenerateSummary generate_on_ranks(World& world, DecodeGroup& group, const GenerateOptions& options,
                                  const std::function<bool()>& stop_requested);

// Whether the job is one for generate_on_ranks() even on one rank.
bool needs_parts(const GenerateOptions& options);

}  // namespace photon
