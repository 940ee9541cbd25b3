#include "train/background_save.hpp"

#include <chrono>
#include <exception>
#include <utility>

#include "support/error.hpp"

namespace photon {

BackgroundSave::BackgroundSave(CheckpointSave save, std::int64_t step, bool is_first_rank, bool beside,
                               std::function<void()> before_part)
    : save_(std::move(save)),
      is_first_rank_(is_first_rank),
      launch_(beside ? std::launch::async : std::launch::deferred),
      outcome_{step, "", ""} {
  begin([this, before = std::move(before_part)] {
    before();
    save_.write_part();
  });
}

BackgroundSave::~BackgroundSave() {
  if (work_.valid() && launch_ == std::launch::async) work_.wait();
}

void BackgroundSave::begin(std::function<void()> work) {
  work_ = std::async(launch_, [work = std::move(work)]() -> std::string {
    try {
      work();
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  });
}

void BackgroundSave::take() {
  problem_ = work_.get();
}

bool BackgroundSave::busy() {
  if (!work_.valid()) return false;
  if (work_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return true;
  take();
  return false;
}

void BackgroundSave::wait() {
  if (work_.valid()) take();
}

bool BackgroundSave::advance(bool any_busy, bool any_failed) {
  if (any_busy) return false;
  PHOTON_EXPECT(!work_.valid(), "a save of step {} that is busy, and no rank says so", outcome_.step);
  if (any_failed) {
    if (is_first_rank_) save_.abandon();
    outcome_.problem = failed() ? problem_ : "another rank failed; see the message of that rank";
    return true;
  }
  if (committing_) {
    outcome_.folder = save_.folder().string();
    return true;
  }
  committing_ = true;
  if (is_first_rank_) begin([this] { save_.commit(); });
  return false;
}

}  // namespace photon
