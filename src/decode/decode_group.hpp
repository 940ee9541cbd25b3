// One rank of a layout at work: what it holds of the model, whom it talks to, and where an engine gets its decoder. The
// jobs above see ranks that take prompts, each with an engine; the ranks behind those only serve.
#pragma once

#include <memory>

#include "comm/world.hpp"
#include "decode/engine.hpp"
#include "decode/open_model.hpp"

namespace photon {

class ChunkMessages;

class DecodeGroup {
 public:
  // Collective over the world's ranks. `model` is what open_model_on() gave this rank.
  DecodeGroup(World& world, const DecodeLayout& layout, OpenModel model, const Context& ctx);
  ~DecodeGroup();
  DecodeGroup(const DecodeGroup&) = delete;
  DecodeGroup& operator=(const DecodeGroup&) = delete;

  const DecodeLayout& layout() const { return layout_; }
  OpenModel& model() { return model_; }

  // On ranks that take prompts:
  bool takes_prompts() const { return layout_.takes_prompts(rank_); }
  // Those ranks, in the order of their groups.
  Communicator& peers() { return peers_; }
  DecoderSource source();
  // Whether a shard of this group was asked to stop; to be called now and then, before every macro-step at least.
  bool stop_requested();
  // Ends the shards' serve(), once the engine has returned; `preempted`: as Preempted.
  void finish(bool preempted);

  // On the others: decodes chunks until the coarse rank is done. Errors: Preempted when the job was.
  void serve(bool (*asked_to_stop)());

 private:
  DecodeLayout layout_;
  int rank_;
  OpenModel model_;
  Context ctx_;
  Communicator group_;
  Communicator peers_;
  std::unique_ptr<ChunkMessages> link_;
};

}  // namespace photon
