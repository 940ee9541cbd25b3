// Inputs whose result is known exactly on any number of ranks.
#include "comm/communicator.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <thread>
#include <utility>

#include "comm/mesh.hpp"
#include "support/random.hpp"
#include "testing/world.hpp"

namespace photon {
namespace {

using photon::testing::world;

template <class T>
void expect_reductions(std::int64_t n) {
  Communicator& all = world().all();
  const std::int64_t ranks = all.size();
  const auto value = [](std::int64_t rank, std::int64_t i) { return static_cast<T>((rank + 1) * (i % 7 + 1) % 31); };
  for (const Reduction op : {Reduction::sum, Reduction::max, Reduction::min}) {
    std::vector<T> data(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) data[static_cast<std::size_t>(i)] = value(all.rank(), i);
    all.all_reduce(host_view(data.data(), {n}), op);
    for (std::int64_t i = 0; i < n; ++i) {
      T expected = value(0, i);
      for (std::int64_t r = 1; r < ranks; ++r) {
        const T other = value(r, i);
        expected = op == Reduction::sum   ? static_cast<T>(expected + other)
                   : op == Reduction::max ? std::max(expected, other)
                                          : std::min(expected, other);
      }
      ASSERT_EQ(data[static_cast<std::size_t>(i)], expected) << "element " << i << " of " << n;
    }
  }
}

TEST(Communicator, ReducesEveryTypeAtAwkwardSizes) {
  // 0 and 1 elements; fewer than ranks; around the border between the two algorithms; sizes that no rank count divides.
  for (const std::int64_t n : {0, 1, 2, 3, 1000, 4097, 16385, 100003}) {
    expect_reductions<float>(n);
    expect_reductions<double>(n);
    expect_reductions<std::int64_t>(n);
    expect_reductions<std::int32_t>(n);
    expect_reductions<std::uint8_t>(n);
    expect_reductions<std::uint64_t>(n);
  }
}

TEST(Communicator, ReducesMoreThanOnePiece) {
  const std::int64_t n = (std::int64_t{16} << 20) / 8 + 5;  // one past a 16 MiB piece of doubles
  std::vector<double> data(static_cast<std::size_t>(n), world().rank() + 1.0);
  data.back() = 100.0 * world().rank();
  world().all().all_reduce(host_view(data.data(), {n}), Reduction::sum);
  const double ranks = world().size();
  EXPECT_EQ(data.front(), ranks * (ranks + 1) / 2);
  EXPECT_EQ(data[static_cast<std::size_t>(n) - 2], ranks * (ranks + 1) / 2);
  EXPECT_EQ(data.back(), 100 * ranks * (ranks - 1) / 2);
}

// Random values: every rank computes the ordered sum itself and must find the same bits; the result for an element may
// not depend on how many elements travel with it.
TEST(Communicator, SumsAreTheSameBitsEverywhereAndForEverySize) {
  Communicator& all = world().all();
  const auto value = [](int rank, std::int64_t i) {
    return static_cast<float>(random_normal(static_cast<std::uint64_t>(rank), 1, static_cast<std::uint64_t>(i)));
  };
  for (const std::int64_t n : {5, 70001}) {
    std::vector<float> data(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) data[static_cast<std::size_t>(i)] = value(all.rank(), i);
    all.all_reduce(host_view(data.data(), {n}), Reduction::sum);
    for (std::int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (int r = 0; r < all.size(); ++r) sum += static_cast<double>(value(r, i));
      ASSERT_EQ(data[static_cast<std::size_t>(i)], static_cast<float>(sum)) << i;
    }
  }
}

TEST(Communicator, CarriesNaNToEveryRank) {
  Communicator& all = world().all();
  const double mine = all.rank() == all.size() - 1 ? std::numeric_limits<double>::quiet_NaN() : 1.0;
  EXPECT_TRUE(std::isnan(all.all_reduce(mine, Reduction::sum)));
  EXPECT_TRUE(std::isnan(all.all_reduce(mine, Reduction::max)));
}

TEST(Communicator, BroadcastsFromAnyRank) {
  Communicator& all = world().all();
  for (int root = 0; root < all.size(); ++root) {
    std::vector<std::uint16_t> data(1001, static_cast<std::uint16_t>(all.rank()));
    all.broadcast(host_view(data.data(), {1001}), root);
    EXPECT_EQ(data, std::vector<std::uint16_t>(1001, static_cast<std::uint16_t>(root)));
  }
}

TEST(Communicator, GathersInRankOrder) {
  Communicator& all = world().all();
  // The second size does not fit one piece of 16 MiB together with the other ranks' parts.
  for (const std::int64_t n : {3, (2 << 20) + 1}) {
    const std::vector<double> mine(static_cast<std::size_t>(n), 10.0 + all.rank());
    std::vector<double> gathered(static_cast<std::size_t>(n * all.size()));
    all.all_gather(host_view(mine.data(), {n}), host_view(gathered.data(), {n * all.size()}));
    for (std::int64_t i = 0; i < n * all.size(); ++i) {
      ASSERT_EQ(gathered[static_cast<std::size_t>(i)], 10.0 + static_cast<double>(i / n)) << i;
    }
  }
}

TEST(Communicator, SplitsAlongTheAxesOfAMesh) {
  Communicator& all = world().all();
  const int data = all.size() % 2 == 0 ? 2 : 1;
  const Mesh mesh(MeshPoint(data, 1, all.size() / data, 1));
  for (const Axis axis : all_axes) {
    Communicator line = all.split(mesh.line_color(all.rank(), axis), std::string(name_of(axis)));
    const std::vector<int> members = mesh.line(all.rank(), axis);
    ASSERT_EQ(line.size(), static_cast<int>(members.size()));
    EXPECT_EQ(members[static_cast<std::size_t>(line.rank())], all.rank());
    std::int64_t expected = 0;
    for (const int member : members) expected += member;
    EXPECT_EQ(line.all_reduce(std::int64_t{all.rank()}, Reduction::sum), expected);
    const Communicator moved = std::move(line);
    EXPECT_EQ(moved.name(), name_of(axis));
  }
}

// Every rank sends to every other, two tags each and two messages a tag; they are received in another order.
TEST(Communicator, CarriesMessagesByTagInTheOrderTheyWereSent) {
  Communicator& all = world().all();
  const int ranks = all.size();
  const int me = all.rank();
  const auto content = [](int from, int to, int tag, int number, std::int64_t n) {
    std::vector<std::int32_t> values(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) {
      values[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(((from * 10 + to) * 10 + number) * 7 + tag + i);
    }
    return values;
  };
  for (const std::int64_t n : {std::int64_t{0}, std::int64_t{1}, std::int64_t{3}, std::int64_t{50001}}) {
    std::vector<std::vector<std::int32_t>> memory;
    memory.reserve(static_cast<std::size_t>(4 * ranks));
    std::vector<Sending> sendings;
    for (int to = 0; to < ranks; ++to) {
      if (to == me) continue;
      for (const int tag : {0, Communicator::max_tag}) {
        for (int number = 0; number < 2; ++number) {
          memory.push_back(content(me, to, tag, number, n));
          sendings.push_back(all.send(host_view(std::as_const(memory.back()).data(), {n}), to, tag));
        }
      }
    }
    for (int from = ranks - 1; from >= 0; --from) {
      if (from == me) continue;
      for (const int tag : {Communicator::max_tag, 0}) {
        for (int number = 0; number < 2; ++number) {
          std::vector<std::int32_t> received(static_cast<std::size_t>(n), -1);
          all.receive(host_view(received.data(), {n}), from, tag);
          ASSERT_EQ(received, content(from, me, tag, number, n)) << "from " << from << " tag " << tag;
        }
      }
    }
    for (Sending& sending : sendings) sending.wait();
  }
}

TEST(Communicator, RefusesMessagesToItselfAndUnknownTags) {
  Communicator& all = world().all();
  float value = 0;
  EXPECT_THROW(all.send(host_view(&value, {1}), all.rank(), 0), ContractError);
  EXPECT_THROW(all.receive(host_view(&value, {1}), all.size(), 0), ContractError);
  if (all.size() > 1) {
    EXPECT_THROW(all.receive(host_view(&value, {1}), (all.rank() + 1) % all.size(), -1), ContractError);
  }
}

TEST(Communicator, AReceiveGivesUpAtTheDeadline) {
  if (world().size() == 1) GTEST_SKIP() << "nobody to wait for";
  if (world().rank() != 0) return;
  world().enter("step 3", 0.05);
  static float value = 0;  // the receive stays open
  try {
    world().all().receive(host_view(&value, {1}), 1, 77);
    ADD_FAILURE() << "received what nobody sent";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("receive from rank 1 did not finish on rank 0"), std::string::npos)
        << error.what();
  }
  world().enter("test", 30);
}

TEST(Communicator, GivesUpAtTheDeadlineAndSaysWho) {
  if (world().size() == 1) GTEST_SKIP() << "nobody to wait for";
  if (world().rank() == 0) {
    world().enter("step 12", 0.05);
    try {
      world().all().barrier();
      ADD_FAILURE() << "the barrier ended without the others";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("barrier did not finish on rank 0 of"), std::string::npos) << message;
      EXPECT_NE(message.find("host " + world().host()), std::string::npos) << message;
      EXPECT_NE(message.find("in phase 'step 12'"), std::string::npos) << message;
      EXPECT_NE(message.find("the limit is 0.05 s"), std::string::npos) << message;
    }
    world().enter("test", 30);
  } else {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    world().all().barrier();  // what rank 0 gave up waiting for
  }
}

}  // namespace
}  // namespace photon
