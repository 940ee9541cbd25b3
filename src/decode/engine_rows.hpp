// What the engine knows of its rows. For its own sources alone.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "decode/engine.hpp"

namespace photon {

struct Engine::Job {
  Request request;
  std::vector<std::unique_ptr<Sample>> samples;  // started ones
  std::int64_t num_done = 0;
  std::int64_t capacity = 0;  // of the caches that would be made for it

  bool started() const { return static_cast<std::int64_t>(samples.size()) == request.options.num_samples; }
};

struct Engine::Active {
  std::shared_ptr<Job> job;
  Sample* sample;
  std::int64_t slot;
  std::int64_t cohort;  // rows of one cohort take their steps together
};

// Rows that have finished since are in it too: what they get is not read.
struct Engine::Step {
  std::vector<std::shared_ptr<Job>> jobs;
  std::vector<Sample*> samples;
  std::vector<std::int64_t> positions;  // of each row's first token
  std::int64_t cohort = 0;
};

// `position` is its first token's, `latent` its row of the roll-out.
struct Engine::Chunk {
  Sample* sample = nullptr;
  std::int64_t slot = 0;
  std::int64_t position = 0;
  std::int64_t latent = 0;
};

// Their rows keep their slots until it is taken.
struct Engine::Call {
  std::vector<Chunk> chunks;
  std::int64_t cohort = 0;
};

class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds) {}
  ~Stopwatch() { seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

inline std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace photon
