// Which rank decodes which row: a queue that is read as it is emptied, and that takes rows back from ranks that have
// more than they can start when others have none. Pure logic: who carries the messages is not its concern.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "decode/request.hpp"

namespace photon {

// How a rank stands. All are totals since the start, or the state now: a report that is late or lost does no harm.
struct RankReport {
  std::int64_t received = 0;  // rows it was given
  std::int64_t finished = 0;  // rows whose result is written
  std::int64_t waiting = 0;   // rows it has and has not started
  std::int64_t free = 0;      // sequences it could start at once
  std::int64_t capacity = 1;  // rows it likes to have waiting
};

class WorkQueue {
 public:
  // What a rank is to be told.
  struct Order {
    enum class Kind : std::uint8_t { rows, give_back, end } kind = Kind::rows;
    int rank = 0;
    std::vector<PromptLine> rows;  // rows: they are this rank's now
    std::int64_t count = 0;        // give_back: up to so many rows it has not started; answered by give_back()
  };

  // `read` gives the rows of the job; or none, for good once `at_end` says so and for now until then. At most
  // look_ahead rows, and about so many bytes of them, are kept here.
  WorkQueue(int num_ranks, std::function<std::optional<PromptLine>()> read, std::function<bool()> at_end,
            std::int64_t look_ahead, std::int64_t look_ahead_bytes = std::int64_t{64} << 20);

  // Nobody gets rows before all ranks have reported once, or the first ones would take a short job alone.
  void report(int rank, const RankReport& report);
  // The answer of a rank to give_back, perhaps empty.
  void give_back(int rank, std::vector<PromptLine> rows);
  // What to tell ranks now. After an end there is nothing more for that rank.
  std::vector<Order> orders();

  bool ended() const { return ended_; }  // every row of the job is finished

 private:
  struct Rank {
    RankReport report;
    bool reported = false;
    bool asked_back = false;  // a give_back is under way
    std::int64_t granted = 0;
    std::int64_t returned = 0;  // that arrived here

    std::int64_t on_the_way() const { return granted - report.received; }
    std::int64_t has() const { return report.waiting + on_the_way(); }          // rows it has not started
    std::int64_t held() const { return granted - returned - report.finished; }  // rows nobody else may finish
    bool idle() const { return has() == 0 && report.free > 0; }
    std::int64_t spare() const { return report.waiting - report.free; }  // rows it cannot start at once
  };

  void read_ahead();
  std::vector<PromptLine> take(std::int64_t count);
  void give(int rank, std::int64_t count, std::vector<Order>& orders);
  void grant(std::vector<Order>& orders);
  void ask_back(std::vector<Order>& orders);

  std::vector<Rank> ranks_;
  std::function<std::optional<PromptLine>()> read_;
  std::function<bool()> at_end_;
  std::int64_t look_ahead_;
  std::int64_t look_ahead_bytes_;
  std::deque<PromptLine> rows_;
  std::int64_t bytes_ = 0;
  bool dry_ = false;        // there was no row to read, for now or for good
  bool exhausted_ = false;  // for good
  bool ended_ = false;
  int first_ = 0;  // the rank that is served first this time
};

}  // namespace photon
