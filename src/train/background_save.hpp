// A checkpoint on its way to disk beside the training that goes on. Every rank writes its part on a thread of its own;
// rank 0 publishes once all have. The threads send no messages: what the ranks must know of each other, two flags,
// travels with those that the training sends anyway.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <string>

#include "checkpoint/checkpoint.hpp"

namespace photon {

class BackgroundSave {
 public:
  // What a save came to.
  struct Outcome {
    std::int64_t step = -1;
    std::string folder;
    std::string problem;  // empty when it succeeded
  };

  // `save` is prepared. `before_part` runs on the thread before it writes this rank's part. Without `beside` everything
  // is done by wait(), on the caller's thread.
  BackgroundSave(CheckpointSave save, std::int64_t step, bool is_first_rank, bool beside,
                 std::function<void()> before_part);
  // Waits for the thread. What is not published then is no checkpoint, and the next save removes it.
  ~BackgroundSave();
  BackgroundSave(const BackgroundSave&) = delete;
  BackgroundSave& operator=(const BackgroundSave&) = delete;

  // This rank's flags.
  bool busy();
  bool failed() const { return !problem_.empty(); }
  // With the flags of all ranks, in the same step of each. Returns whether the save is over.
  bool advance(bool any_busy, bool any_failed);
  // Until this rank is not busy.
  void wait();
  // Once it is over.
  const Outcome& outcome() const { return outcome_; }

 private:
  void begin(std::function<void()> work);
  void take();  // the result of the work that has ended

  CheckpointSave save_;
  bool is_first_rank_;
  std::launch launch_;
  bool committing_ = false;
  std::string problem_;
  Outcome outcome_;
  std::future<std::string> work_;  // last: its thread uses the others
};

}  // namespace photon
