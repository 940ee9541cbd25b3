// Level 1's chunks on other ranks: what travels between a coarse rank and its shards. Rank 0 of the group is the coarse
// one, every other rank decodes chunks for it.
//
// A step's rows are divided among the shards. To each go once the rows' sampling options, given tokens and what came
// before; then for every chunk c(1), 4 D_1 bytes a row in fp32 (on a GPU in the model's precision, by NCCL), and back
// come C_1 token ids a row, 4 bytes each (and as much again with logprobs). Between GPUs those that the coarse stream
// reads itself, HierGen's, come by NCCL too, and neither host waits for them; RecGen's come to the host.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "comm/communicator.hpp"
#include "model/chunk_server.hpp"
#include "partition/decode_layout.hpp"

namespace photon {

// Makes the group ready for latents and tokens in GPU memory; collective over it, nothing to do for the host.
void use_device_for_chunks(Communicator& group, const Context& ctx);

// The coarse rank's end. Errors: RankError, from any call, as comm/ has them.
class ChunkMessages : public ChunkLink {
 public:
  // Chunks of C_1 = `chunk_tokens`. `direct`: tokens go into memory of this space, where use_device_for_chunks() had it
  // if it is a device's.
  ChunkMessages(Communicator& group, std::int64_t chunk_tokens, std::int64_t num_cohorts = decode_cohorts,
                std::optional<Space> direct = {});

  std::int64_t num_cohorts() const override { return static_cast<std::int64_t>(cohorts_.size()); }
  void open(std::int64_t cohort, const ChunkRows& rows) override;
  void send(std::int64_t cohort, std::int64_t offset, const ConstTensorView& c) override;
  StepResult receive(std::int64_t cohort) override;
  bool direct() const override { return direct_.has_value(); }
  std::int64_t answer_bytes(std::int64_t cohort) const override;
  std::vector<ChunkPart> receive_into(std::int64_t cohort, const TensorView& memory) override;
  void wait_until(const std::function<bool()>& done) override;
  void advance() override;

  // Whether a shard was asked to stop, e.g. by SIGTERM. To be called now and then, also while there is nothing to
  // decode: it tells the shards that this rank lives.
  bool stop_requested();
  // Ends the shards' serve_chunks(), with all steps taken; `preempted`: they return true.
  void finish(bool preempted);

 private:
  struct Outgoing {
    std::vector<std::byte> data;
    Pending pending;
  };
  struct Answer {
    std::int64_t begin = 0;  // the shard's rows
    std::int64_t end = 0;
    std::vector<std::int32_t> words;  // its rows' tokens, and what goes with them
    Pending pending;
  };
  struct Cohort {
    std::int64_t num_rows = 0;
    bool logprobs = false;
    bool direct = false;
    std::int64_t top_logprobs = 0;
    std::vector<Answer> answers;  // of each shard
  };
  struct Call {  // from a shard: that it was asked to stop, or that it has ended
    std::int64_t kind = 0;
    Pending pending;
  };

  int num_shards() const { return group_.size() - 1; }
  void send_bytes(int shard, int tag, const void* data, std::size_t bytes);
  void send_command(int shard, std::int64_t kind, std::int64_t cohort, std::int64_t a, std::int64_t b);
  void listen(int shard);
  // Of what a shard sends of a chunk into memory here: bytes, and the rows it is padded to.
  std::int64_t padded_rows_of(const Answer& answer) const;
  std::int64_t direct_bytes(const Cohort& cohort, const Answer& answer) const;

  Communicator& group_;
  std::int64_t chunk_tokens_;
  std::optional<Space> direct_;
  std::vector<Cohort> cohorts_;
  std::deque<Outgoing> outgoing_;
  std::vector<Call> calls_;  // of each shard
  bool stop_requested_ = false;
  double told_ = 0;  // seconds, when the shards last heard of this rank
};

// The shard's loop: decodes what rank 0 of the group asks for until that ends it; true when the job was preempted.
// `stop_requested` is asked between messages. Errors: RankError when the coarse rank cannot be reached; whatever else
// is thrown has to end the job, since the coarse rank waits for an answer (World::run does).
bool serve_chunks(ChunkServer& server, Communicator& group, bool (*stop_requested)());

}  // namespace photon
