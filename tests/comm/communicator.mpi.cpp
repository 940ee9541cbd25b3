// Inputs whose result is known exactly on any number of ranks.
#include "comm/communicator.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>
#include <utility>

#include "comm/limits.hpp"
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

// Lowers the sizes at which messages are cut, on every rank, so that small tensors take every path.
class LoweredLimits {
 public:
  LoweredLimits(std::int64_t message_bytes, std::int64_t piece_bytes, std::int64_t direct_bytes) {
    comm::limits() = {message_bytes, piece_bytes, direct_bytes};
  }
  ~LoweredLimits() {
    world().all().barrier();
    comm::limits() = before_;
  }

 private:
  comm::Limits before_ = comm::limits();
};

// Something different for every rank, partner and element.
std::int32_t mark(std::int64_t from, std::int64_t to, std::int64_t i) {
  return static_cast<std::int32_t>((from * 31 + to) * 1'000'003 + i * 7);
}

TEST(Communicator, BroadcastsFromAnyRank) {
  Communicator& all = world().all();
  // Fewer bytes than ranks; below and above the size that is dealt out in blocks.
  for (const std::int64_t n : {0, 1, 3, 1001, 70'001}) {
    for (int root = 0; root < all.size(); ++root) {
      std::vector<std::uint16_t> data(static_cast<std::size_t>(n));
      const auto value = [root](std::int64_t i) { return static_cast<std::uint16_t>(mark(root, 0, i)); };
      for (std::int64_t i = 0; i < n; ++i) {
        data[static_cast<std::size_t>(i)] = all.rank() == root ? value(i) : static_cast<std::uint16_t>(9);
      }
      all.broadcast(host_view(data.data(), {n}), root);
      for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(data[static_cast<std::size_t>(i)], value(i)) << i << " of " << n;
    }
  }
}

TEST(Communicator, GathersInRankOrder) {
  Communicator& all = world().all();
  for (const std::int64_t n : {0, 1, 3, 300'007}) {
    for (const bool in_place : {false, true}) {
      std::vector<std::int32_t> mine(static_cast<std::size_t>(n));
      for (std::int64_t i = 0; i < n; ++i) mine[static_cast<std::size_t>(i)] = mark(all.rank(), 0, i);
      std::vector<std::int32_t> gathered(static_cast<std::size_t>(n * all.size()), -1);
      if (in_place) std::copy(mine.begin(), mine.end(), gathered.begin() + n * all.rank());
      const TensorView whole = host_view(gathered.data(), {n * all.size()});
      all.all_gather(in_place ? whole.slice(0, n * all.rank(), n) : host_view(mine.data(), {n}), whole);
      for (std::int64_t i = 0; i < n * all.size(); ++i) {
        ASSERT_EQ(gathered[static_cast<std::size_t>(i)], mark(i / n, 0, i % n)) << i;
      }
    }
  }
}

TEST(Communicator, ExchangesPartsOfAllWithAll) {
  Communicator& all = world().all();
  for (const std::int64_t n : {0, 1, 5, 50'001}) {  // elements for each rank
    std::vector<std::int32_t> from(static_cast<std::size_t>(n * all.size()));
    for (std::int64_t i = 0; i < n * all.size(); ++i)
      from[static_cast<std::size_t>(i)] = mark(all.rank(), i / n, i % n);
    std::vector<std::int32_t> to(from.size(), -1);
    all.all_to_all(host_view(std::as_const(from).data(), {n * all.size()}), host_view(to.data(), {n * all.size()}));
    for (std::int64_t i = 0; i < n * all.size(); ++i) {
      ASSERT_EQ(to[static_cast<std::size_t>(i)], mark(i / n, all.rank(), i % n)) << i;
    }
  }
}

template <class T>
void expect_reduce_scatter(std::int64_t n, bool in_place) {
  Communicator& all = world().all();
  for (const Reduction op : {Reduction::sum, Reduction::max, Reduction::min}) {
    // Values whose sums are exact in T, and others that round, whose bits must be those of all_reduce.
    std::vector<T> data(static_cast<std::size_t>(n * all.size()));
    for (std::size_t i = 0; i < data.size(); ++i) {
      const auto index = static_cast<std::int64_t>(i);
      data[i] = index % 2 == 0 ? static_cast<T>((all.rank() + 1) * (index % 7 + 1))
                               : static_cast<T>(100 * std::sin(static_cast<double>(index * 5 + all.rank())) + 100);
    }
    std::vector<T> reduced = data;
    all.all_reduce(host_view(reduced.data(), {n * all.size()}), op);
    std::vector<T> mine(static_cast<std::size_t>(n));
    const TensorView whole = host_view(data.data(), {n * all.size()});
    const TensorView part = in_place ? whole.slice(0, n * all.rank(), n) : host_view(mine.data(), {n});
    all.reduce_scatter(whole, part, op);
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t index = n * all.rank() + i;
      const T result = part.host<T>()[i];
      ASSERT_EQ(result, reduced[static_cast<std::size_t>(index)]) << i << " of " << n;
      if (index % 2 != 0) continue;
      const std::int64_t ranks = op == Reduction::sum   ? std::int64_t{all.size()} * (all.size() + 1) / 2
                                 : op == Reduction::max ? all.size()
                                                        : 1;
      ASSERT_EQ(result, static_cast<T>(ranks * (index % 7 + 1))) << i << " of " << n;
    }
  }
}

TEST(Communicator, ReduceScatterGivesEachRankItsPartOfTheSum) {
  for (const bool in_place : {false, true}) {
    for (const std::int64_t n : {0, 1, 3, 4097}) {
      expect_reduce_scatter<float>(n, in_place);
      expect_reduce_scatter<double>(n, in_place);
      expect_reduce_scatter<std::int32_t>(n, in_place);
      expect_reduce_scatter<std::int64_t>(n, in_place);
      expect_reduce_scatter<std::uint64_t>(n, in_place);
    }
  }
}

TEST(Communicator, CutsLongMessagesAndPieces) {
  const LoweredLimits lowered(1000, 4096, 256);  // bytes; numbers of elements below leave remainders everywhere
  expect_reductions<float>(12'345);
  expect_reductions<std::uint8_t>(12'345);
  for (const bool in_place : {false, true}) expect_reduce_scatter<float>(4099, in_place);
  Communicator& all = world().all();
  const std::int64_t n = 2501;  // 10 messages of 1000 bytes, and 4 bytes
  std::vector<std::int32_t> from(static_cast<std::size_t>(n * all.size()));
  for (std::int64_t i = 0; i < n * all.size(); ++i) from[static_cast<std::size_t>(i)] = mark(all.rank(), i / n, i % n);
  std::vector<std::int32_t> to(from.size());
  const ConstTensorView source = host_view(std::as_const(from).data(), {n * all.size()});
  const TensorView target = host_view(to.data(), {n * all.size()});
  all.all_to_all(source, target);
  for (std::int64_t i = 0; i < n * all.size(); ++i) {
    ASSERT_EQ(to[static_cast<std::size_t>(i)], mark(i / n, all.rank(), i % n)) << i;
  }
  all.all_gather(source.slice(0, 0, n), target);
  for (std::int64_t i = 0; i < n * all.size(); ++i) {
    ASSERT_EQ(to[static_cast<std::size_t>(i)], mark(i / n, 0, i % n)) << i;
  }
  all.broadcast(target, all.size() - 1);
  for (int r = 1; r < all.size(); ++r) {
    if (all.rank() == 0) all.send(source, r, 3).wait();
    if (all.rank() != r) continue;
    all.receive(target, 0, 3);
    for (std::int64_t i = 0; i < n * all.size(); ++i) {
      ASSERT_EQ(to[static_cast<std::size_t>(i)], mark(0, i / n, i % n)) << i;
    }
  }
}

// Several operations on two communicators, finished in another order than begun, with messages between them.
TEST(Communicator, KeepsSeveralOperationsUnderWay) {
  Communicator& all = world().all();
  const LoweredLimits lowered(1 << 20, 1 << 14, 64);
  Communicator other = all.split(0, "other");
  const std::int64_t n = 30'011;
  const int num_operations = 6;
  std::vector<std::vector<double>> data;
  std::vector<double> parts(static_cast<std::size_t>(n));
  std::vector<double> whole(static_cast<std::size_t>(n * all.size()), all.rank() + 1.0);
  for (int i = 0; i < num_operations; ++i) data.emplace_back(static_cast<std::size_t>(n), (all.rank() + 1.0) * (i + 1));
  std::vector<Pending> pending;
  for (int i = 0; i < num_operations; ++i) {
    Communicator& group = i % 2 == 0 ? all : other;
    pending.push_back(group.start_all_reduce(host_view(data[static_cast<std::size_t>(i)].data(), {n}), Reduction::sum));
  }
  Pending scattered = all.start_reduce_scatter(host_view(std::as_const(whole).data(), {n * all.size()}),
                                               host_view(parts.data(), {n}), Reduction::max);
  // A ring of messages: nobody's arrives before the one before him has been inside the library.
  std::int32_t token = all.rank();
  if (all.size() > 1) {
    Pending sent = all.send(host_view(&token, {1}), (all.rank() + 1) % all.size(), 5);
    std::int32_t received = -1;
    all.receive(host_view(&received, {1}), (all.rank() + all.size() - 1) % all.size(), 5);
    EXPECT_EQ(received, (all.rank() + all.size() - 1) % all.size());
    sent.wait();
  }
  scattered.wait();
  EXPECT_EQ(parts, std::vector<double>(parts.size(), all.size()));
  // Ranks wait in different orders.
  for (int i = 0; i < num_operations; ++i) {
    pending[static_cast<std::size_t>(all.rank() % 2 == 0 ? i : num_operations - 1 - i)].wait();
  }
  const double ranks = all.size() * (all.size() + 1) / 2.0;
  for (int i = 0; i < num_operations; ++i) {
    EXPECT_EQ(data[static_cast<std::size_t>(i)], std::vector<double>(static_cast<std::size_t>(n), ranks * (i + 1)));
  }
}

// A rank that waits for a message carries on the sums that others need before they send it.
TEST(Communicator, CarriesOnWhileItWaitsForSomethingElse) {
  Communicator& all = world().all();
  if (all.size() == 1) GTEST_SKIP() << "nobody to wait for";
  const std::int64_t n = 50'001;
  std::vector<double> data(static_cast<std::size_t>(n), 1.0);
  Pending sum = all.start_all_reduce(host_view(data.data(), {n}), Reduction::sum);
  std::int32_t token = 0;
  if (all.rank() == 0) {
    for (int r = 1; r < all.size(); ++r) all.receive(host_view(&token, {1}), r, 6);
    sum.wait();
  } else {
    sum.wait();
    all.send(host_view(&token, {1}), 0, 6).wait();
  }
  EXPECT_EQ(data, std::vector<double>(data.size(), all.size()));
}

TEST(Communicator, RefusesOverlapsAndUnequalParts) {
  Communicator& all = world().all();
  const std::int64_t n = 4 * all.size();
  std::vector<float> data(static_cast<std::size_t>(n) + 1);
  const TensorView whole = host_view(data.data(), {n});
  EXPECT_THROW(all.reduce_scatter(whole, whole.slice(0, 0, 3), Reduction::sum), ContractError);
  const TensorView shifted = host_view(data.data() + 4 * all.rank() + 1, {4});
  EXPECT_THROW(all.reduce_scatter(whole, shifted, Reduction::sum), ContractError);
  EXPECT_THROW(all.all_gather(shifted, whole), ContractError);
  EXPECT_THROW(all.all_to_all(whole, host_view(data.data() + 1, {n})), ContractError);
}

TEST(Communicator, SaysWhenAMessageHasAnotherLength) {
  Communicator& all = world().all();
  if (all.size() == 1) GTEST_SKIP() << "nobody to send";
  std::vector<float> data(8);
  if (all.rank() == 0) {
    all.send(host_view(data.data(), {3}), 1, 9).wait();
  } else if (all.rank() == 1) {
    try {
      all.receive(host_view(data.data(), {8}), 0, 9);
      ADD_FAILURE() << "took a short message";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("sent 12 bytes where 32 were expected"), std::string::npos)
          << error.what();
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

TEST(Communicator, WaitsForOneOfSeveral) {
  if (world().size() == 1) GTEST_SKIP() << "nobody to wait for";
  Communicator& all = world().all();
  if (all.rank() == 1) {
    // The second of two messages first: each is seen when it is there.
    all.send(host_view(std::array<std::int32_t, 1>{7}.data(), {1}), 0, 2).wait();
    all.barrier();
    all.send(host_view(std::array<std::int32_t, 1>{8}.data(), {1}), 0, 1).wait();
  } else if (all.rank() == 0) {
    std::array<std::int32_t, 2> values{};
    std::array<Pending, 2> pending;
    for (std::size_t i = 0; i < 2; ++i) {
      pending[i] = all.start_receive(host_view(values.data() + i, {1}), 1, static_cast<int>(i) + 1);
    }
    all.wait_until("one of two", 1, [&] { return pending[0].done() || pending[1].done(); });
    EXPECT_FALSE(pending[0].done());
    EXPECT_EQ(values[1], 7);
    all.barrier();
    all.wait_until("the other one", 1, [&] { return pending[0].done(); });
    EXPECT_EQ(values[0], 8);
    world().enter("step 4", 0.05);
    try {
      all.wait_until("a third one", 1, [] { return false; });
      ADD_FAILURE() << "waited for nothing and came back";
    } catch (const RankError& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("a third one did not come on rank 0 of"), std::string::npos) << message;
      EXPECT_NE(message.find("s for rank 1 on host " + world().host() + ", the limit is 0.05 s"), std::string::npos)
          << message;
    }
    world().enter("test", 30);
  } else {
    all.barrier();
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
      for (int r = 1; r < world().size(); ++r) {
        EXPECT_NE(message.find(fmt::format("rank {} on host {}", r, world().host())), std::string::npos) << message;
      }
    }
    world().enter("test", 30);
  } else {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    world().all().barrier();  // what rank 0 gave up waiting for
  }
}

}  // namespace
}  // namespace photon
