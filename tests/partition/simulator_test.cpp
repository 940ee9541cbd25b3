#include "partition/simulator.hpp"

#include <gtest/gtest.h>

#include "support/error.hpp"

namespace photon {
namespace {

using Kind = TimedInstruction::Kind;

TimedInstruction compute(double seconds, std::int64_t memory = 0) {
  return {.kind = Kind::compute, .name = "compute", .seconds = seconds, .memory = memory};
}

TimedInstruction send(std::int64_t peer, std::int64_t message, double seconds = 0, double latency = 0) {
  return {.kind = Kind::send, .name = "send", .seconds = seconds, .latency = latency, .peer = peer, .message = message};
}

TimedInstruction receive(std::int64_t peer, std::int64_t message) {
  return {.kind = Kind::receive, .name = "receive", .peer = peer, .message = message};
}

TimedInstruction meet(std::int64_t group, std::int64_t size, double seconds) {
  return {.kind = Kind::collective, .name = "all_reduce", .seconds = seconds, .group = group, .group_size = size};
}

// One forward, one backward: stage s of p with equal stages, microbatch numbers as messages (backwards negative).
std::vector<TimedProgram> one_forward_one_backward(std::int64_t p, std::int64_t m, double forward, double backward) {
  std::vector<TimedProgram> programs;
  for (std::int64_t s = 0; s < p; ++s) {
    TimedProgram program;
    const auto run_forward = [&](std::int64_t i) {
      if (s > 0) program.push_back(receive(s - 1, i));
      program.push_back(compute(forward, 100));
      if (s + 1 < p) program.push_back(send(s + 1, i));
    };
    const auto run_backward = [&](std::int64_t i) {
      if (s + 1 < p) program.push_back(receive(s + 1, -1 - i));
      program.push_back(compute(backward, -100));
      if (s > 0) program.push_back(send(s - 1, -1 - i));
    };
    const std::int64_t warm = std::min(p - 1 - s, m);
    for (std::int64_t i = 0; i < warm; ++i) run_forward(i);
    for (std::int64_t i = warm; i < m; ++i) {
      run_forward(i);
      run_backward(i - warm);
    }
    for (std::int64_t i = m - warm; i < m; ++i) run_backward(i);
    programs.push_back(program);
  }
  return programs;
}

TEST(Simulator, TakesAMessagesTimeOnceItsSenderIsThere) {
  // Rank 0 works 2 s, its message takes 3 s of the link and 0.5 s to set out; rank 1 works 1 s before it and 4 s after.
  const Simulation s =
      simulate({{compute(2), send(1, 7, 3, 0.5), compute(1)}, {compute(1), receive(0, 7), compute(4)}});
  EXPECT_DOUBLE_EQ(s.ranks[0].end, 3);  // goes on while the message travels
  EXPECT_DOUBLE_EQ(s.ranks[1].end, 9.5);
  EXPECT_DOUBLE_EQ(s.ranks[1].wait, 4.5);
  EXPECT_DOUBLE_EQ(s.seconds, 9.5);
  EXPECT_DOUBLE_EQ(s.bubble, 1 - 8 / 19.0);
  ASSERT_EQ(s.ranks[1].spans.size(), 2U);
  EXPECT_EQ(s.ranks[1].spans[1].instruction, 2);
  EXPECT_DOUBLE_EQ(s.ranks[1].spans[1].begin, 5.5);
}

TEST(Simulator, MessagesShareALink) {
  // Both go to rank 2 at 0 s; its way in takes one at a time.
  const Simulation s = simulate({{send(2, 0, 3)}, {send(2, 0, 2)}, {receive(1, 0), receive(0, 0)}});
  EXPECT_DOUBLE_EQ(s.ranks[2].end, 5);
  // One sender's two messages leave one after the other, also to different ranks.
  const Simulation t = simulate({{send(1, 0, 3), send(2, 0, 2)}, {receive(0, 0)}, {receive(0, 0)}});
  EXPECT_DOUBLE_EQ(t.ranks[1].end, 3);
  EXPECT_DOUBLE_EQ(t.ranks[2].end, 5);
}

TEST(Simulator, CollectivesBeginWithTheLast) {
  const Simulation s = simulate({{compute(1), meet(0, 2, 10)}, {compute(5), meet(0, 2, 10), compute(1)}});
  EXPECT_DOUBLE_EQ(s.ranks[0].wait, 4);
  EXPECT_DOUBLE_EQ(s.ranks[0].end, 15);
  EXPECT_DOUBLE_EQ(s.ranks[1].end, 16);
  EXPECT_DOUBLE_EQ(s.ranks[1].communication, 10);
}

TEST(Simulator, FindsTheBubbleOfOneForwardOneBackward) {
  for (const std::int64_t p : {1, 2, 3, 5}) {
    for (const std::int64_t m : {1, 4, 16}) {
      const Simulation s = simulate(one_forward_one_backward(p, m, 1, 2));
      // Equal stages: (m + p - 1) microbatches' time, so idle / busy = (p - 1) / m.
      EXPECT_DOUBLE_EQ(s.seconds, 3.0 * static_cast<double>(m + p - 1)) << p << " stages, " << m << " microbatches";
      EXPECT_NEAR(s.bubble / (1 - s.bubble), static_cast<double>(p - 1) / static_cast<double>(m), 1e-12);
    }
  }
}

TEST(Simulator, KeepsAsManyMicrobatchesAsStagesFollow) {
  const Simulation s = simulate(one_forward_one_backward(4, 8, 1, 2));
  for (std::int64_t stage = 0; stage < 4; ++stage) {
    EXPECT_EQ(s.ranks[static_cast<std::size_t>(stage)].peak_memory, 100 * (4 - stage));
  }
}

TEST(Simulator, MoreWorkNeverEndsEarlier) {
  double previous = 0;
  for (const double forward : {0.5, 1.0, 1.5, 4.0}) {
    const double seconds = simulate(one_forward_one_backward(3, 6, forward, 2)).seconds;
    EXPECT_GT(seconds, previous);
    previous = seconds;
  }
}

TEST(Simulator, TakesManyRanks) {
  const Simulation s = simulate(one_forward_one_backward(1000, 100, 1, 2));
  EXPECT_DOUBLE_EQ(s.seconds, 3.0 * 1099);
}

TEST(Simulator, NamesWhoWaitsForEver) {
  const auto message_of = [](const std::vector<TimedProgram>& programs) -> std::string {
    try {
      simulate(programs);
    } catch (const ContractError& error) {
      return error.what();
    }
    return "ended";
  };
  EXPECT_NE(message_of({{receive(1, 0), send(1, 1)}, {receive(0, 1), send(0, 0)}}).find("rank 0 waits for ever"),
            std::string::npos);
  EXPECT_NE(message_of({{send(1, 5)}, {}}).find("rank 1 never receives message 5 of rank 0"), std::string::npos);
  EXPECT_NE(message_of({{meet(0, 2, 1)}, {compute(1)}}).find("waits for ever"), std::string::npos);
  EXPECT_NE(message_of({{send(0, 5)}}).find("names rank 0 of 1"), std::string::npos);
}

}  // namespace
}  // namespace photon
