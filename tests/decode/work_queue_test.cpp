#include "decode/work_queue.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

namespace photon {
namespace {

using Order = WorkQueue::Order;

std::function<std::optional<PromptLine>()> rows(std::int64_t count, std::size_t text_bytes = 1) {
  return [count, text_bytes, line = std::int64_t{0}]() mutable -> std::optional<PromptLine> {
    if (line == count) return std::nullopt;
    PromptLine row;
    row.line = line++;
    row.text.assign(text_bytes, 'x');
    return row;
  };
}

bool always() {
  return true;
}

// A rank that starts rows when it has free places, and takes as many turns for a row as `cost` says.
struct SimulatedRank {
  std::int64_t slots = 4;
  std::int64_t capacity = 8;
  std::function<std::int64_t(std::int64_t line)> cost = [](std::int64_t) { return 1; };
  std::int64_t received = 0, finished = 0;
  std::deque<PromptLine> waiting;
  std::vector<std::pair<std::int64_t, std::int64_t>> active;  // line, turns left
  bool ended = false;
  std::int64_t busy_turns = 0;
  std::int64_t last_turn = 0;  // in which it had something to do

  std::int64_t free() const { return slots - static_cast<std::int64_t>(active.size()); }
  RankReport report() const {
    return {received, finished, static_cast<std::int64_t>(waiting.size()), free(), capacity};
  }
  void turn(std::int64_t now, std::vector<int>& times_finished) {
    while (free() > 0 && !waiting.empty()) {
      active.emplace_back(waiting.front().line, cost(waiting.front().line));
      waiting.pop_front();
    }
    if (!active.empty()) last_turn = now;
    for (auto& [line, left] : active) {
      if (--left > 0) continue;
      ++times_finished[static_cast<std::size_t>(line)];
      ++finished;
    }
    std::erase_if(active, [](const auto& row) { return row.second <= 0; });
  }
  // As a rank answers: it keeps what it can start now.
  std::vector<PromptLine> give_back(std::int64_t count) {
    std::vector<PromptLine> rows;
    count = std::min(count, static_cast<std::int64_t>(waiting.size()) - free());
    for (; count > 0; --count) {
      rows.push_back(std::move(waiting.back()));
      waiting.pop_back();
    }
    return rows;
  }
  // Carries an order out; true when the answer to a give_back is in `answer`.
  bool obey(Order order, std::vector<PromptLine>& answer) {
    EXPECT_FALSE(ended);
    if (order.kind == Order::Kind::end) {
      EXPECT_TRUE(waiting.empty() && active.empty());
      ended = true;
    }
    for (PromptLine& row : order.rows) waiting.push_back(std::move(row));
    received += static_cast<std::int64_t>(order.rows.size());
    if (order.kind != Order::Kind::give_back) return false;
    answer = give_back(order.count);
    return true;
  }
};

// Messages take no time and ranks go on in step.
std::int64_t run_in_step(std::vector<SimulatedRank>& ranks, std::int64_t num_rows, std::int64_t look_ahead) {
  WorkQueue queue(static_cast<int>(ranks.size()), rows(num_rows), always, look_ahead);
  std::vector<int> times_finished(static_cast<std::size_t>(num_rows));
  std::int64_t now = 0;
  for (; !queue.ended() && now < 1'000'000; ++now) {
    for (int exchange = 0; exchange < 3; ++exchange) {
      for (std::size_t r = 0; r < ranks.size(); ++r) queue.report(static_cast<int>(r), ranks[r].report());
      for (Order& order : queue.orders()) {
        std::vector<PromptLine> answer;
        const int rank = order.rank;
        if (ranks[static_cast<std::size_t>(rank)].obey(std::move(order), answer)) {
          queue.report(rank, ranks[static_cast<std::size_t>(rank)].report());
          queue.give_back(rank, std::move(answer));
        }
      }
    }
    for (SimulatedRank& rank : ranks) rank.turn(now, times_finished);
  }
  EXPECT_TRUE(queue.ended());
  for (const int times : times_finished) EXPECT_EQ(times, 1);
  for (const SimulatedRank& rank : ranks) EXPECT_TRUE(rank.ended);
  return now;
}

TEST(WorkQueueTest, AShortJobIsDividedEvenly) {
  std::vector<SimulatedRank> ranks(4);
  for (SimulatedRank& rank : ranks) {
    rank.slots = 256;
    rank.capacity = 512;
  }
  run_in_step(ranks, 300, 4096);
  for (const SimulatedRank& rank : ranks) EXPECT_EQ(rank.finished, 75);
}

TEST(WorkQueueTest, NobodyIsServedBeforeAllAreThere) {
  WorkQueue queue(2, rows(10), always, 100);
  queue.report(0, {0, 0, 0, 4, 8});
  EXPECT_TRUE(queue.orders().empty());
  queue.report(1, {0, 0, 0, 4, 8});
  EXPECT_EQ(queue.orders().size(), 2U);
}

TEST(WorkQueueTest, AnEmptyJobEndsAtOnce) {
  for (const int num_ranks : {1, 3}) {
    WorkQueue queue(num_ranks, rows(0), always, 100);
    for (int r = 0; r < num_ranks; ++r) queue.report(r, {0, 0, 0, 4, 8});
    const std::vector<Order> orders = queue.orders();
    ASSERT_EQ(orders.size(), static_cast<std::size_t>(num_ranks));
    for (const Order& order : orders) EXPECT_EQ(order.kind, Order::Kind::end);
    EXPECT_TRUE(queue.ended());
    EXPECT_TRUE(queue.orders().empty());
  }
}

// Of a pipe that holds few rows now the ranks without work get equal parts, and a rank that cannot start its own gives
// them to one that can.
TEST(WorkQueueTest, RowsOfASlowPipeGoToThoseWhoCanStartThem) {
  std::int64_t there = 4;
  std::int64_t line = 0;
  const auto read = [&]() -> std::optional<PromptLine> {
    if (line == there) return std::nullopt;
    PromptLine row;
    row.line = line++;
    return row;
  };
  bool at_end = false;
  WorkQueue queue(
      2, read, [&] { return at_end; }, 100);
  queue.report(0, {0, 0, 0, 4, 8});
  queue.report(1, {0, 0, 0, 4, 8});
  std::vector<Order> orders = queue.orders();
  ASSERT_EQ(orders.size(), 2U);
  for (Order& order : orders) {
    EXPECT_EQ(order.kind, Order::Kind::rows);
    EXPECT_EQ(order.rows.size(), 2U);
  }
  EXPECT_FALSE(queue.ended());
  // Rank 0 has started one of its rows and has no place for the other, rank 1 is done.
  queue.report(0, {2, 0, 1, 0, 8});
  queue.report(1, {2, 2, 0, 4, 8});
  orders = queue.orders();
  ASSERT_EQ(orders.size(), 1U);
  EXPECT_EQ(orders[0].kind, Order::Kind::give_back);
  EXPECT_EQ(orders[0].rank, 0);
  std::vector<PromptLine> back(1);
  back[0].line = 1;
  queue.report(0, {2, 0, 0, 0, 8});
  queue.give_back(0, std::move(back));
  orders = queue.orders();
  ASSERT_EQ(orders.size(), 1U);
  EXPECT_EQ(orders[0].rank, 1);
  ASSERT_EQ(orders[0].rows.size(), 1U);
  // Nothing ends before the pipe does.
  queue.report(0, {2, 1, 0, 4, 8});
  queue.report(1, {3, 3, 0, 4, 8});
  EXPECT_TRUE(queue.orders().empty());
  EXPECT_FALSE(queue.ended());
  at_end = true;
  EXPECT_EQ(queue.orders().size(), 2U);
  EXPECT_TRUE(queue.ended());
}

// Rows that cost a hundred times the others, all in one place of the file, and ranks of unequal speed: nobody is
// without work long before the others are.
TEST(WorkQueueTest, RanksStayBusyWhateverRowsCost) {
  for (const std::int64_t costly_from : {0, 500, 950}) {
    std::vector<SimulatedRank> ranks(4);
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      ranks[r].slots = 4;
      ranks[r].capacity = 64;  // hoards far more than it can start
      ranks[r].cost = [costly_from, r](std::int64_t line) {
        const std::int64_t turns = line >= costly_from && line < costly_from + 50 ? 100 : 1;
        return turns * (r == 3 ? 5 : 1);  // the last one is slow
      };
    }
    run_in_step(ranks, 1000, 512);
    std::int64_t first = ranks[0].last_turn, last = ranks[0].last_turn;
    for (const SimulatedRank& rank : ranks) {
      first = std::min(first, rank.last_turn);
      last = std::max(last, rank.last_turn);
    }
    // The last row that anyone starts may be a costly one on the slow rank.
    EXPECT_LE(last - first, 500) << costly_from;
  }
}

TEST(WorkQueueTest, EveryRowIsFinishedOnceInAnyOrderOfEvents) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const auto draw = [&](std::int64_t below) {
      return static_cast<std::int64_t>(random() % static_cast<unsigned>(below));
    };
    const auto num_ranks = static_cast<std::size_t>(1 + draw(6));
    const std::int64_t num_rows = draw(200);
    std::vector<SimulatedRank> ranks(num_ranks);
    const std::int64_t spread = 1 + draw(40);
    for (SimulatedRank& rank : ranks) {
      rank.slots = 1 + draw(8);
      rank.capacity = 1 + draw(40);
      rank.cost = [&draw, spread](std::int64_t) { return 1 + draw(spread); };
    }
    // Every other time from a pipe, which now and then holds nothing.
    const bool pipe = seed % 2 == 1;
    std::int64_t num_read = 0;
    const auto read = [&, next = rows(num_rows, 10)]() -> std::optional<PromptLine> {
      if (pipe && draw(3) == 0) return std::nullopt;
      std::optional<PromptLine> row = next();
      if (row) ++num_read;
      return row;
    };
    WorkQueue queue(
        static_cast<int>(num_ranks), read, [&] { return num_read == num_rows; }, 1 + draw(60), 1 + draw(400));
    std::vector<int> times_finished(static_cast<std::size_t>(num_rows));
    // Messages under way, in order for each pair: orders to ranks; reports and answers to the queue.
    struct Message {
      RankReport report;
      bool is_answer = false;
      std::vector<PromptLine> rows;
    };
    std::vector<std::deque<Order>> to_rank(num_ranks);
    std::vector<std::deque<Message>> to_queue(num_ranks);
    for (std::size_t r = 0; r < num_ranks; ++r) to_queue[r].push_back({ranks[r].report(), false, {}});
    std::int64_t events = 0;
    const auto all_ended = [&] {
      return std::all_of(ranks.begin(), ranks.end(), [](const SimulatedRank& rank) { return rank.ended; });
    };
    for (; !all_ended() && events < 2'000'000; ++events) {
      const auto r = static_cast<std::size_t>(draw(static_cast<std::int64_t>(num_ranks)));
      switch (draw(5)) {
        case 0:
          for (Order& order : queue.orders()) {
            const auto to = static_cast<std::size_t>(order.rank);
            to_rank[to].push_back(std::move(order));
          }
          break;
        case 1:
          if (to_queue[r].empty()) break;
          queue.report(static_cast<int>(r), to_queue[r].front().report);
          if (to_queue[r].front().is_answer) queue.give_back(static_cast<int>(r), std::move(to_queue[r].front().rows));
          to_queue[r].pop_front();
          break;
        case 2: {
          if (to_rank[r].empty()) break;
          std::vector<PromptLine> answer;
          if (ranks[r].obey(std::move(to_rank[r].front()), answer)) {
            to_queue[r].push_back({ranks[r].report(), true, std::move(answer)});
          }
          to_rank[r].pop_front();
          break;
        }
        case 3:
          ranks[r].turn(events, times_finished);
          break;
        default:
          if (!ranks[r].ended) to_queue[r].push_back({ranks[r].report(), false, {}});
      }
    }
    ASSERT_TRUE(all_ended()) << "seed " << seed << " hangs";
    for (const int times : times_finished) ASSERT_EQ(times, 1) << "seed " << seed;
  }
}

TEST(WorkQueueTest, LongRowsGoInSeveralMessages) {
  WorkQueue queue(1, rows(8, std::size_t{3} << 20), always, 100);
  queue.report(0, {0, 0, 0, 64, 64});
  const std::vector<Order> orders = queue.orders();
  ASSERT_EQ(orders.size(), 1U);
  EXPECT_EQ(orders[0].rows.size(), 2U);
}

}  // namespace
}  // namespace photon
