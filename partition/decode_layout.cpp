#include "partition/decode_layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "support/error.hpp"

namespace photon {

DecodeLayout decode_layout(int num_ranks, int shards) {
  if (shards < 0)
    throw InputError(fmt::format("{} shards", shards), "a number from 0 on is needed", "set --decoder-shards");
  const DecodeLayout layout{num_ranks, shards};
  const int group = layout.ranks_per_group();
  if (num_ranks % group == 0) return layout;
  // The nearest number of shards that divides these ranks, and of ranks that these shards divide.
  int nearest = 0;
  for (int other = 1; other < num_ranks; ++other) {
    if (num_ranks % (1 + other) == 0 && std::abs(other - shards) <= std::abs(nearest - shards)) nearest = other;
  }
  const int fewer = num_ranks / group * group;
  const std::string ranks = fewer > 0 ? fmt::format("{} or {}", fewer, fewer + group) : fmt::format("{}", group);
  throw InputError(
      fmt::format("--decoder-shards {} on {} rank{}", shards, num_ranks, num_ranks == 1 ? "" : "s"),
      fmt::format("a group is one coarse rank and its shards, {} ranks, and all ranks belong to one", group),
      fmt::format("start {} ranks{}", ranks,
                  num_ranks > 1 ? fmt::format(", or use --decoder-shards {}", nearest) : std::string()));
}

void require_decoder_shards(const ModelConfig& config) {
  if (config.type != ModelType::vanilla) return;
  throw InputError("a vanilla model has no decoder shards", "it has no levels that could be decoded apart",
                   "use --decoder-shards 0: every rank is a replica");
}

}  // namespace photon
