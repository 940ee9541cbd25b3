// Communication between GPUs: inputs whose result is known exactly on any number of ranks, each rank with its own GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.hpp"
#include "tensor/buffer.hpp"
#include "tensor/half.hpp"
#include "testing/world.hpp"

namespace photon {
namespace {

using photon::testing::world;

// Small whole numbers, which every type here holds exactly.
void put(DType dtype, std::byte* bytes, std::int64_t index, double value) {
  const auto store = [&](auto x) { std::memcpy(bytes + index * static_cast<std::int64_t>(sizeof x), &x, sizeof x); };
  switch (dtype) {
    case DType::f32:
      return store(static_cast<float>(value));
    case DType::f64:
      return store(value);
    case DType::f16:
      return store(to_float16(static_cast<float>(value)));
    case DType::bf16:
      return store(to_bfloat16(static_cast<float>(value)));
    case DType::i32:
      return store(static_cast<std::int32_t>(value));
    case DType::i64:
      return store(static_cast<std::int64_t>(value));
    case DType::u8:
      return store(static_cast<std::uint8_t>(value));
    case DType::u16:
      return store(static_cast<std::uint16_t>(value));
    case DType::u32:
      return store(static_cast<std::uint32_t>(value));
    case DType::u64:
      return store(static_cast<std::uint64_t>(value));
  }
}

using Value = std::function<double(std::int64_t)>;

std::vector<std::byte> encoded(DType dtype, std::int64_t n, const Value& value) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(n) * size_of(dtype));
  for (std::int64_t i = 0; i < n; ++i) put(dtype, bytes.data(), i, value(i));
  return bytes;
}

class DeviceCommunicator : public ::testing::Test {
 protected:
  // One set of communicators for all tests: making them takes seconds.
  static void SetUpTestSuite() {
    if (device::count() < world().local_size()) return;
    world().use_gpu();
    stream_ = device::make_stream();
    std::vector<Route> routes;
    for (int from = 0; from < world().size(); ++from) {
      for (int to = 0; to < world().size(); ++to) {
        if (from != to) routes.push_back({from, to});
      }
    }
    group_ = std::make_unique<Communicator>(world().all().split(0, "gpus"));
    group_->use_device(stream_, routes);
  }
  static void TearDownTestSuite() { group_.reset(); }

  void SetUp() override {
    if (!group_) GTEST_SKIP() << "needs " << world().local_size() << " GPUs, there are " << device::count();
  }

  static Tensor on_device(DType dtype, std::int64_t n, const Value& value) {
    Tensor tensor(Space::device, dtype, {n}, "a test");
    const std::vector<std::byte> bytes = encoded(dtype, n, value);
    if (n > 0) copy(stream_, ConstTensorView(bytes.data(), dtype, Space::host, {n}), tensor);
    return tensor;
  }
  static void expect_values(const ConstTensorView& view, const Value& value, const std::string& what) {
    group_->synchronize();
    const std::int64_t n = view.numel();
    std::vector<std::byte> bytes(static_cast<std::size_t>(view.bytes()));
    if (n > 0) copy(view, TensorView(bytes.data(), view.dtype(), Space::host, {n}));
    const std::vector<std::byte> expected = encoded(view.dtype(), n, value);
    const auto element = static_cast<std::int64_t>(size_of(view.dtype()));
    for (std::int64_t i = 0; i < n; ++i) {
      ASSERT_EQ(std::memcmp(bytes.data() + i * element, expected.data() + i * element, size_of(view.dtype())), 0)
          << what << ": element " << i << " of " << n << " " << name_of(view.dtype());
    }
  }

  static int rank() { return group_->rank(); }
  static int ranks() { return group_->size(); }
  // What rank r contributes, at most 28 with four ranks.
  static double part(int r, std::int64_t i) { return static_cast<double>((r + 1) * (i % 7 + 1)); }
  static double reduced(Reduction op, std::int64_t i) {
    const double all = op == Reduction::sum ? ranks() * (ranks() + 1) / 2.0 : op == Reduction::max ? ranks() : 1;
    return all * static_cast<double>(i % 7 + 1);
  }
  // Something different for every pair of ranks, within a byte.
  static double mark(int from, int to, std::int64_t i) {
    return static_cast<double>((from * 5 + to * 31 + i * 3) % 120);
  }

  static constexpr DType all_types[] = {DType::f32, DType::f64, DType::f16, DType::bf16, DType::i32,
                                        DType::i64, DType::u8,  DType::u32, DType::u64};
  static constexpr std::int64_t sizes[] = {0, 1, 3, 1000, 100'003};

  static Stream stream_;
  static std::unique_ptr<Communicator> group_;
};

Stream DeviceCommunicator::stream_;
std::unique_ptr<Communicator> DeviceCommunicator::group_;

TEST_F(DeviceCommunicator, AllReduces) {
  for (const DType dtype : all_types) {
    for (const Reduction op : {Reduction::sum, Reduction::max, Reduction::min}) {
      for (const std::int64_t n : sizes) {
        const Tensor data = on_device(dtype, n, [](std::int64_t i) { return part(rank(), i); });
        group_->all_reduce(data, op);
        expect_values(
            data, [op](std::int64_t i) { return reduced(op, i); }, "all_reduce");
      }
    }
  }
}

TEST_F(DeviceCommunicator, ReduceScattersInPlaceAndNot) {
  for (const DType dtype : all_types) {
    for (const bool in_place : {false, true}) {
      for (const std::int64_t n : sizes) {
        const Tensor all = on_device(dtype, n * ranks(), [](std::int64_t i) { return part(rank(), i); });
        const Tensor other(Space::device, dtype, {n}, "a test");
        const TensorView mine = in_place ? all.view().slice(0, n * rank(), n) : other.view();
        group_->reduce_scatter(all, mine, Reduction::sum);
        expect_values(
            mine, [n](std::int64_t i) { return reduced(Reduction::sum, n * rank() + i); }, "reduce_scatter");
      }
    }
  }
}

TEST_F(DeviceCommunicator, AllGathersInPlaceAndNot) {
  for (const DType dtype : all_types) {
    for (const bool in_place : {false, true}) {
      for (const std::int64_t n : sizes) {
        const Tensor all(Space::device, dtype, {n * ranks()}, "a test");
        const Tensor other = on_device(dtype, n, [](std::int64_t i) { return mark(rank(), 0, i); });
        const TensorView mine = in_place ? all.view().slice(0, n * rank(), n) : other.view();
        if (in_place && n > 0) copy(stream_, other, mine);
        group_->all_gather(mine, all);
        expect_values(
            all, [n](std::int64_t i) { return mark(static_cast<int>(i / n), 0, i % n); }, "all_gather");
      }
    }
  }
}

TEST_F(DeviceCommunicator, ExchangesPartsOfAllWithAll) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::u8}) {
    for (const std::int64_t n : sizes) {
      const Tensor from =
          on_device(dtype, n * ranks(), [n](std::int64_t i) { return mark(rank(), static_cast<int>(i / n), i % n); });
      const Tensor to(Space::device, dtype, {n * ranks()}, "a test");
      group_->all_to_all(from, to);
      expect_values(
          to, [n](std::int64_t i) { return mark(static_cast<int>(i / n), rank(), i % n); }, "all_to_all");
    }
  }
}

TEST_F(DeviceCommunicator, BroadcastsFromAnyRank) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::u8}) {
    for (const std::int64_t n : sizes) {
      for (int root = 0; root < ranks(); ++root) {
        const Tensor data = on_device(dtype, n, [](std::int64_t i) { return mark(rank(), 1, i); });
        group_->broadcast(data, root);
        expect_values(
            data, [root](std::int64_t i) { return mark(root, 1, i); }, "broadcast");
      }
    }
  }
}

// Everyone sends to everyone, both ways at once, several messages a route.
TEST_F(DeviceCommunicator, CarriesMessagesBothWays) {
  for (const std::int64_t n : sizes) {
    std::vector<Tensor> memory;
    std::vector<Pending> sends;
    for (int to = 0; to < ranks(); ++to) {
      for (int number = 0; number < 2 && to != rank(); ++number) {
        memory.push_back(on_device(DType::bf16, n, [&](std::int64_t i) { return mark(rank(), to, i + number); }));
        sends.push_back(group_->send(memory.back(), to, number));
      }
    }
    for (int from = 0; from < ranks(); ++from) {
      for (int number = 0; number < 2 && from != rank(); ++number) {
        const Tensor received(Space::device, DType::bf16, {n}, "a test");
        group_->receive(received, from, number);
        expect_values(
            received, [&](std::int64_t i) { return mark(from, rank(), i + number); }, "a message");
      }
    }
    for (Pending& send : sends) send.wait();
    group_->synchronize();
  }
}

// The sender's host goes on though the receiver has not come: they meet in a barrier behind 64 messages.
TEST_F(DeviceCommunicator, QueuesMessagesWithoutWaitingForTheOtherRank) {
  if (ranks() == 1) GTEST_SKIP() << "nobody to send to";
  constexpr int count = 64;
  const std::int64_t n = 300'007;  // more than NCCL takes from a sender whose receiver has not come
  const int next = (rank() + 1) % ranks();
  const int last = (rank() + ranks() - 1) % ranks();
  std::vector<Tensor> sent;
  std::vector<Pending> pending;
  for (int k = 0; k < count; ++k) {
    sent.push_back(on_device(DType::f32, n, [k, next](std::int64_t i) { return mark(rank(), next, i + k); }));
  }
  const Tensor small(Space::device, DType::i32, {1 << 18}, "a test");
  std::vector<Tensor> received;
  for (int k = 0; k < count; ++k) received.emplace_back(Space::device, DType::f32, Shape{n}, "a test");
  for (int k = 0; k < count; ++k) {
    pending.push_back(group_->send(sent[static_cast<std::size_t>(k)], next, k));
    // Nor do copies from the host make it wait, however large they become.
    const std::vector<std::int32_t> values(static_cast<std::size_t>(k + 1) * 4096, k);
    const auto length = static_cast<std::int64_t>(values.size());
    copy(stream_, host_view(values.data(), {length}), small.view().slice(0, 0, length));
  }
  world().all().barrier();
  for (int k = 0; k < count; ++k) group_->receive(received[static_cast<std::size_t>(k)], last, k);
  for (Pending& each : pending) each.wait();
  for (int k = 0; k < count; ++k) {
    expect_values(
        received[static_cast<std::size_t>(k)], [&](std::int64_t i) { return mark(last, rank(), i + k); },
        "message " + std::to_string(k));
  }
}

// Messages that go round the ranks, to which each adds what it knows: the host queues all of them and waits for none.
TEST_F(DeviceCommunicator, PassesAMessageOnInOrder) {
  if (ranks() == 1) GTEST_SKIP() << "nobody to send to";
  constexpr std::int64_t rounds = 100;
  const int next = (rank() + 1) % ranks();
  const int last = (rank() + ranks() - 1) % ranks();
  const Tensor mine =
      on_device(DType::i32, rounds, [](std::int64_t i) { return static_cast<double>(rank() * 1000 + i); });
  const Tensor passed(Space::device, DType::i32, {rounds + 1, ranks()}, "a test");
  const TensorView all = passed.view();
  std::vector<Pending> pending;
  for (std::int64_t k = 0; k < rounds; ++k) {
    const TensorView row = all.slice(0, k, 1).reshape({ranks()});
    if (rank() > 0) group_->receive(row, last, 0);
    copy(stream_, mine.view().slice(0, k, 1), row.slice(0, rank(), 1));
    pending.push_back(group_->send(row, next, 0));
    if (rank() == 0) group_->receive(row, last, 0);
  }
  for (Pending& each : pending) each.wait();
  if (rank() == 0) {
    expect_values(
        all.slice(0, 0, rounds).reshape({rounds * ranks()}),
        [](std::int64_t i) { return static_cast<double>(i % ranks() * 1000 + i / ranks()); }, "what went round");
  }
  group_->synchronize();
}

// Started operations run beside the compute stream, which sees their results behind wait() and only there.
TEST_F(DeviceCommunicator, OrdersOperationsWithTheComputeStream) {
  const std::int64_t n = 1 << 20;
  std::vector<Tensor> data;
  std::vector<Pending> pending;
  for (int k = 0; k < 4; ++k) {
    data.push_back(on_device(DType::f32, n, [k](std::int64_t i) { return part(rank(), i + k); }));
    pending.push_back(group_->start_all_reduce(data.back(), Reduction::sum));
  }
  const Tensor copies(Space::device, DType::f32, {4, n}, "a test");
  for (int k = 3; k >= 0; --k) {
    pending[static_cast<std::size_t>(k)].wait();
    copy(stream_, data[static_cast<std::size_t>(k)], copies.view().slice(0, k, 1).reshape({n}));
  }
  for (int k = 0; k < 4; ++k) {
    expect_values(
        copies.view().slice(0, k, 1).reshape({n}), [k](std::int64_t i) { return reduced(Reduction::sum, i + k); },
        "a started all_reduce");
  }
  for (Pending& each : pending) EXPECT_TRUE(each.done());
}

TEST_F(DeviceCommunicator, SplitsIntoGroups) {
  Communicator pair = group_->split(rank() / 2, "pair");
  pair.use_device(stream_);
  const Tensor data = on_device(DType::f32, 1001, [](std::int64_t i) { return part(rank(), i); });
  pair.all_reduce(data, Reduction::sum);
  pair.synchronize();
  expect_values(
      data,
      [&](std::int64_t i) {
        double sum = 0;
        for (int r = rank() / 2 * 2; r < std::min(ranks(), rank() / 2 * 2 + 2); ++r) sum += part(r, i);
        return sum;
      },
      "a pair's all_reduce");
}

TEST_F(DeviceCommunicator, RefusesTensorsItDoesNotKnow) {
  const Tensor data(Space::device, DType::f32, {4}, "a test");
  EXPECT_THROW(world().all().all_reduce(data.view(), Reduction::sum), ContractError);
  Communicator alone = group_->split(rank(), "alone");
  alone.use_device(stream_);
  const Tensor to(Space::device, DType::f32, {4}, "a test");
  const Tensor from = on_device(DType::f32, 4, [](std::int64_t i) { return static_cast<double>(i); });
  alone.all_gather(from, to);
  expect_values(
      to, [](std::int64_t i) { return static_cast<double>(i); }, "a copy");
}

// The communicator that it breaks is its own.
TEST_F(DeviceCommunicator, GivesUpAtTheDeadlineWhenARankDoesNotCome) {
  if (ranks() == 1) GTEST_SKIP() << "nobody to wait for";
  Communicator other = group_->split(0, "other");
  other.use_device(stream_);
  const Tensor data(Space::device, DType::f32, {1000}, "a test");
  other.all_reduce(data, Reduction::sum);
  other.synchronize();
  if (rank() != ranks() - 1) {
    world().enter("step 12", 2);
    const auto begin = std::chrono::steady_clock::now();
    other.all_reduce(data, Reduction::sum);
    try {
      other.synchronize();
      ADD_FAILURE() << "an all_reduce ended without all ranks";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("all_reduce did not finish on rank " + std::to_string(rank())), std::string::npos)
          << message;
      EXPECT_NE(message.find("(other), host " + world().host() + ", in phase 'step 12'"), std::string::npos) << message;
      EXPECT_NE(message.find("the limit is 2 s"), std::string::npos) << message;
    }
    EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 20);
    EXPECT_THROW(other.all_reduce(data, Reduction::sum), Error);  // aborted
  }
  world().enter("test", 30);
  world().all().barrier();
  // The GPU is free again: the kernel that waited is gone.
  const Tensor again = on_device(DType::f32, 5, [](std::int64_t i) { return part(rank(), i); });
  group_->all_reduce(again, Reduction::sum);
  expect_values(
      again, [](std::int64_t i) { return reduced(Reduction::sum, i); }, "all_reduce after an abort");
  world().enter("test", 3);  // the end of a communicator that others have aborted
}

// The sender's kernel waits for a receiver that does not come; the communicator is the test's own.
TEST_F(DeviceCommunicator, GivesUpAtTheDeadlineWhenAMessageIsNotTaken) {
  if (ranks() == 1) GTEST_SKIP() << "nobody to wait for";
  Communicator other = group_->split(0, "letters");
  other.use_device(stream_, {{0, 1}});
  const Tensor data(Space::device, DType::f32, {16 << 20}, "a test");
  if (rank() == 0) {
    world().enter("step 14", 2);
    Pending sent = other.send(data, 1, 0);
    try {
      other.synchronize();
      ADD_FAILURE() << "a message ended without a receiver";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("send to rank 1 did not finish on rank 0"), std::string::npos) << message;
      EXPECT_NE(message.find("(letters), host " + world().host() + ", in phase 'step 14'"), std::string::npos)
          << message;
    }
    EXPECT_THROW(static_cast<void>(other.send(data, 1, 0)), Error);  // aborted
  }
  world().enter("test", 30);
  world().all().barrier();
  const Tensor again = on_device(DType::f32, 5, [](std::int64_t i) { return part(rank(), i); });
  group_->all_reduce(again, Reduction::sum);
  expect_values(
      again, [](std::int64_t i) { return reduced(Reduction::sum, i); }, "all_reduce after an abort");
  world().enter("test", 3);  // the end of a communicator that another rank has aborted
}

// The last test: where a copy to the host gives up, every communicator of the process is aborted.
TEST_F(DeviceCommunicator, ACopyToTheHostGivesUpToo) {
  if (ranks() == 1) GTEST_SKIP() << "nobody to wait for";
  const Tensor data(Space::device, DType::f32, {1000}, "a test");
  if (rank() != ranks() - 1) {
    world().enter("step 13", 2);
    group_->all_reduce(data, Reduction::sum);
    std::vector<float> result(1000);
    try {
      copy(stream_, data, host_view(result.data(), {1000}));
      ADD_FAILURE() << "copied the sum of ranks that did not come";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("all_reduce did not finish on rank " + std::to_string(rank())), std::string::npos)
          << message;
      EXPECT_NE(message.find("in phase 'step 13'"), std::string::npos) << message;
    }
  }
  world().enter("test", 30);
  world().all().barrier();
  world().enter("test", 3);
}

}  // namespace
}  // namespace photon
