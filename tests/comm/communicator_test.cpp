// One rank without any MPI runtime; the same operations on several ranks are in communicator.mpi.cpp.
#include "comm/communicator.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>

#include "comm/reduce.hpp"
#include "comm/world.hpp"

namespace photon {
namespace {

TEST(CommunicatorOfOne, KeepsWhatItIsGiven) {
  World world;
  Communicator& all = world.all();
  EXPECT_EQ(all.rank(), 0);
  EXPECT_EQ(all.size(), 1);
  std::vector<float> data{1.5F, -2.0F};
  all.all_reduce(host_view(data.data(), {2}), Reduction::sum);
  all.broadcast(host_view(data.data(), {2}), 0);
  all.barrier();
  EXPECT_EQ(data, (std::vector<float>{1.5F, -2.0F}));
  std::vector<float> gathered(2);
  all.all_gather(host_view(std::as_const(data).data(), {2}), host_view(gathered.data(), {2}));
  EXPECT_EQ(gathered, data);
  EXPECT_EQ(all.all_reduce(std::int64_t{7}, Reduction::max), 7);
  EXPECT_EQ(all.split(3, "part").size(), 1);
}

TEST(CommunicatorOfOne, LetsExceptionsPass) {
  World world;
  EXPECT_THROW(world.run([] { throw InputError("a", "b", "c"); }), InputError);
}

TEST(CommunicatorOfOne, ChecksItsArguments) {
  Communicator one;
  std::vector<float> data(4);
  EXPECT_THROW(one.broadcast(host_view(data.data(), {4}), 1), ContractError);
  EXPECT_THROW(one.all_gather(host_view(std::as_const(data).data(), {2}), host_view(data.data(), {4})), ContractError);
}

// Rows of one element each.
template <class T>
std::vector<const std::byte*> pointers(const std::vector<T>& values) {
  std::vector<const std::byte*> rows;
  for (const T& value : values) rows.push_back(reinterpret_cast<const std::byte*>(&value));
  return rows;
}

TEST(Reduce, AddsInRankOrderWithOneRounding) {
  // In float, 1 + 2^-24 + 2^-24 stays 1 when added one by one; in double the small ones count.
  const std::vector<float> rows{1.0F, 0x1p-24F, 0x1p-24F};
  float sum = 0;
  comm::reduce_rows(DType::f32, Reduction::sum, pointers(rows), 1, reinterpret_cast<std::byte*>(&sum));
  EXPECT_EQ(sum, 1.0F + 0x1p-23F);
}

TEST(Reduce, KeepsNaN) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const std::vector<double>& rows : {std::vector<double>{1, nan, 2}, {nan, 1, 2}, {1, 2, nan}}) {
    for (const Reduction op : {Reduction::sum, Reduction::max, Reduction::min}) {
      double result = 0;
      comm::reduce_rows(DType::f64, op, pointers(rows), 1, reinterpret_cast<std::byte*>(&result));
      EXPECT_TRUE(std::isnan(result));
    }
  }
}

TEST(Reduce, RefusesHalfPrecision) {
  std::byte bytes[4] = {};
  EXPECT_THROW(comm::reduce_rows(DType::bf16, Reduction::sum, {bytes}, 1, bytes), ContractError);
}

}  // namespace
}  // namespace photon
