#include "decode/decode_group.hpp"

#include <utility>

#include "decode/chunk_messages.hpp"
#include "model/photon_share.hpp"
#include "support/error.hpp"
#include "support/random.hpp"

namespace photon {

DecodeGroup::DecodeGroup(World& world, const DecodeLayout& layout, OpenModel model, const Context& ctx)
    : layout_(layout), rank_(world.rank()), model_(std::move(model)), ctx_(ctx) {
  PHOTON_EXPECT(layout.num_ranks == world.size(), "a layout of {} ranks on {}", layout.num_ranks, world.size());
  // Ranks look for the newest checkpoint that is whole each for itself, and each reads its own tensors.
  const auto opened = static_cast<std::int64_t>(hash_name(model_.folder.string()) >> 1);
  if (world.all().all_reduce(opened, Reduction::min) != world.all().all_reduce(opened, Reduction::max)) {
    throw InputError(fmt::format("the ranks opened different weights (rank {}: {})", rank_, model_.folder.string()),
                     "a checkpoint was saved meanwhile, or some rank finds one damaged",
                     "name a checkpoint or a weights folder instead of a run");
  }
  peers_ = world.all().split(takes_prompts() ? 0 : 1, takes_prompts() ? "decoding ranks" : "shards");
  if (layout_.shards == 0) return;
  group_ = world.all().split(layout_.group_of(rank_), "decoding group");
  use_device_for_chunks(group_, ctx_);
  if (takes_prompts()) {
    const std::optional<Space> direct = ctx_.space == Space::device ? std::optional(ctx_.space) : std::nullopt;
    link_ = std::make_unique<ChunkMessages>(group_, model_.config().cumulative_chunk(1), decode_cohorts, direct);
  }
}

DecodeGroup::~DecodeGroup() = default;

bool DecodeGroup::stop_requested() {
  return link_ && link_->stop_requested();
}

DecoderSource DecodeGroup::source() {
  PHOTON_EXPECT(takes_prompts(), "rank {} serves and takes no prompts", rank_);
  return link_ ? decoder_source(*model_.share, ctx_, *link_) : decoder_source(*model_.model, ctx_);
}

void DecodeGroup::finish(bool preempted) {
  if (link_) link_->finish(preempted);
}

void DecodeGroup::serve(bool (*asked_to_stop)()) {
  PHOTON_EXPECT(!takes_prompts(), "rank {} takes prompts", rank_);
  ChunkServer server(model_.config(), model_.share->tensors(), model_.share->dtype(), ctx_);
  if (serve_chunks(server, group_, asked_to_stop)) throw Preempted("stopped by a signal");
}

}  // namespace photon
