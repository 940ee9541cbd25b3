#include "partition/simulator.hpp"

#include <algorithm>
#include <deque>
#include <map>
#include <queue>
#include <tuple>
#include <utility>

#include "support/error.hpp"

namespace photon {
namespace {

using Kind = TimedInstruction::Kind;

class Simulator {
 public:
  explicit Simulator(const std::vector<TimedProgram>& programs)
      : programs_(programs), states_(programs.size()), result_{.ranks = std::vector<RankTimes>(programs.size())} {}

  Simulation run() {
    for (std::size_t rank = 0; rank < programs_.size(); ++rank) ready(rank, 0);
    // Always the rank that is earliest, so that links are given in the order of time.
    while (!queue_.empty()) {
      const auto [time, rank] = queue_.top();
      queue_.pop();
      carry_out(rank, time);
    }
    expect_all_done();
    finish();
    return std::move(result_);
  }

 private:
  struct State {
    std::size_t next = 0;  // instruction
    double out_free = 0;   // when its way out is free again, and its way in
    double in_free = 0;
    std::int64_t memory = 0;
    std::map<std::int64_t, std::int64_t> met;  // collectives of each group that it came to
    std::int64_t num_started = 0;              // and not done
    double others_arrived = 0;                 // the last of those that it started: when its last rank came,
    double started_done = 0;                   // and when it is done
    double finish_since = -1;                  // when it began to wait for them
  };
  // From, to, number of the message.
  using MessageKey = std::tuple<std::size_t, std::size_t, std::int64_t>;
  struct Meeting {
    double last_arrival = 0;
    std::vector<std::tuple<std::size_t, std::size_t, double>> ranks;  // rank, instruction, when it came
  };

  const TimedInstruction& instruction_of(std::size_t rank) const { return programs_[rank][states_[rank].next]; }

  void ready(std::size_t rank, double time) {
    if (states_[rank].next < programs_[rank].size()) queue_.push({time, rank});
    result_.ranks[rank].end = std::max(result_.ranks[rank].end, time);
  }

  void carry_out(std::size_t rank, double time) {
    const TimedInstruction& i = instruction_of(rank);
    take_memory(rank, i);
    switch (i.kind) {
      case Kind::compute:
        result_.ranks[rank].compute += i.seconds;
        return complete(rank, time, time + i.seconds);
      case Kind::send:
        return send(rank, i, time);
      case Kind::receive:
        return receive(rank, i, time);
      case Kind::collective:
      case Kind::start:
        return meet(rank, i, time);
      case Kind::finish:
        return finish_started(rank, time);
    }
  }

  void take_memory(std::size_t rank, const TimedInstruction& i) {
    State& state = states_[rank];
    state.memory += std::max<std::int64_t>(i.memory, 0);
    result_.ranks[rank].peak_memory = std::max(result_.ranks[rank].peak_memory, state.memory);
  }

  // The rank's instruction occupied it from begin to end.
  void complete(std::size_t rank, double begin, double end) {
    State& state = states_[rank];
    state.memory += std::min<std::int64_t>(instruction_of(rank).memory, 0);
    if (end > begin) result_.ranks[rank].spans.push_back({static_cast<std::int64_t>(state.next), begin, end});
    ++state.next;
    ready(rank, end);
  }

  std::size_t peer_of(std::size_t rank, const TimedInstruction& i) const {
    PHOTON_EXPECT(i.peer >= 0 && i.peer < static_cast<std::int64_t>(programs_.size()) &&
                      i.peer != static_cast<std::int64_t>(rank),
                  "{} of rank {} names rank {} of {}", i.name, rank, i.peer, programs_.size());
    return static_cast<std::size_t>(i.peer);
  }

  void send(std::size_t rank, const TimedInstruction& i, double time) {
    const std::size_t peer = peer_of(rank, i);
    const double begin = std::max({time, states_[rank].out_free, states_[peer].in_free});
    const double end = begin + i.seconds;
    states_[rank].out_free = end;
    states_[peer].in_free = end;
    const double arrival = end + i.latency;
    last_arrival_ = std::max(last_arrival_, arrival);
    const MessageKey key{rank, peer, i.message};
    complete(rank, time, time);
    const auto waiting = receivers_.find(key);
    if (waiting == receivers_.end()) {
      arrivals_[key].push_back(arrival);
      return;
    }
    const double since = waiting->second;
    receivers_.erase(waiting);
    arrive(peer, since, arrival);
  }

  void receive(std::size_t rank, const TimedInstruction& i, double time) {
    const MessageKey key{peer_of(rank, i), rank, i.message};
    const auto found = arrivals_.find(key);
    if (found == arrivals_.end()) {
      receivers_.emplace(key, time);
      return;
    }
    const double arrival = found->second.front();
    found->second.pop_front();
    if (found->second.empty()) arrivals_.erase(found);
    arrive(rank, time, arrival);
  }

  void arrive(std::size_t rank, double since, double arrival) {
    const double end = std::max(since, arrival);
    result_.ranks[rank].wait += end - since;
    complete(rank, end, end);
  }

  void meet(std::size_t rank, const TimedInstruction& i, double time) {
    const std::pair key{i.group, states_[rank].met[i.group]++};
    Meeting& meeting = meetings_[key];
    meeting.ranks.emplace_back(rank, states_[rank].next, time);
    meeting.last_arrival = std::max(meeting.last_arrival, time);
    const bool starts = i.kind == Kind::start;
    if (starts) {
      ++states_[rank].num_started;
      complete(rank, time, time);
    }
    if (static_cast<std::int64_t>(meeting.ranks.size()) < i.group_size) return;
    const Meeting all = std::move(meeting);
    meetings_.erase(key);
    double seconds = 0;
    double begin = all.last_arrival;
    for (const auto& [member, instruction, arrived] : all.ranks) {
      seconds = std::max(seconds, programs_[member][instruction].seconds);
      if (starts) begin = std::max(begin, states_[member].started_done);
    }
    for (const auto& [member, instruction, arrived] : all.ranks) {
      if (starts) {
        State& state = states_[member];
        state.others_arrived = all.last_arrival;
        state.started_done = begin + seconds;
        last_arrival_ = std::max(last_arrival_, state.started_done);
        if (--state.num_started == 0 && state.finish_since >= 0) leave_finish(member);
        continue;
      }
      result_.ranks[member].wait += all.last_arrival - arrived;
      result_.ranks[member].communication += seconds;
      complete(member, all.last_arrival, all.last_arrival + seconds);
    }
  }

  void finish_started(std::size_t rank, double time) {
    states_[rank].finish_since = time;
    if (states_[rank].num_started == 0) leave_finish(rank);
  }

  void leave_finish(std::size_t rank) {
    State& state = states_[rank];
    const double arrived = std::max(state.finish_since, state.others_arrived);
    const double end = std::max(arrived, state.started_done);
    result_.ranks[rank].wait += arrived - state.finish_since;
    result_.ranks[rank].communication += end - arrived;
    state.finish_since = -1;
    complete(rank, arrived, end);
  }

  void expect_all_done() const {
    for (std::size_t rank = 0; rank < programs_.size(); ++rank) {
      if (states_[rank].next == programs_[rank].size()) continue;
      PHOTON_EXPECT(false, "rank {} waits for ever in instruction {}: {}", rank, states_[rank].next,
                    instruction_of(rank).name);
    }
    if (arrivals_.empty()) return;
    const auto& [from, to, message] = arrivals_.begin()->first;
    PHOTON_EXPECT(false, "rank {} never receives message {} of rank {}", to, message, from);
  }

  void finish() {
    result_.seconds = last_arrival_;
    double compute = 0;
    for (const RankTimes& rank : result_.ranks) {
      result_.seconds = std::max(result_.seconds, rank.end);
      compute += rank.compute;
    }
    const double total = result_.seconds * static_cast<double>(programs_.size());
    result_.bubble = total > 0 ? 1 - compute / total : 0;
  }

  const std::vector<TimedProgram>& programs_;
  std::vector<State> states_;
  Simulation result_;
  using Ready = std::pair<double, std::size_t>;
  std::priority_queue<Ready, std::vector<Ready>, std::greater<>> queue_;
  std::map<MessageKey, std::deque<double>> arrivals_;                  // sent, not yet received
  std::map<MessageKey, double> receivers_;                             // waiting, since when
  std::map<std::pair<std::int64_t, std::int64_t>, Meeting> meetings_;  // by group, and how many there were before
  double last_arrival_ = 0;
};

}  // namespace

Simulation simulate(const std::vector<TimedProgram>& programs) {
  return Simulator(programs).run();
}

}  // namespace photon
