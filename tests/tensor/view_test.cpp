#include "tensor/view.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "tensor/buffer.hpp"
#include "tensor/device.hpp"

namespace photon {
namespace {

class Views : public ::testing::Test {
 protected:
  Views() : data(24) { std::iota(data.begin(), data.end(), 0.0F); }
  TensorView view(const Shape& shape) { return host_view(data.data(), shape); }
  std::vector<float> data;
};

TEST_F(Views, SlicesAndSplitsAddressTheSameElements) {
  const TensorView x = view({4, 6});
  const TensorView columns = x.slice(1, 2, 3);  // [4, 3], row stride 6
  EXPECT_FALSE(columns.contiguous());
  EXPECT_EQ(columns.host<float>()[columns.stride(0)], 8.0F);
  const TensorView split = x.split(1, 3);  // [4, 3, 2]
  EXPECT_EQ(split.shape(), (Shape{4, 3, 2}));
  EXPECT_EQ(split.host<float>()[2 * split.stride(0) + 1 * split.stride(1) + 1], 15.0F);
  EXPECT_EQ(split.merge(1).shape(), x.shape());
  EXPECT_EQ(columns.slice(0, 1, 2).split(0, 2).merge(0).host<float>()[0], 8.0F);
}

TEST_F(Views, RefuseWhatDoesNotFit) {
  const TensorView x = view({4, 6});
  EXPECT_THROW(x.slice(0, 3, 2), ContractError);
  EXPECT_THROW(x.slice(2, 0, 1), ContractError);
  EXPECT_THROW(x.split(1, 4), ContractError);
  EXPECT_THROW(x.slice(1, 0, 3).reshape({12}), ContractError);  // strided
  EXPECT_THROW(x.slice(1, 0, 3).merge(0), ContractError);
  EXPECT_THROW(x.reshape({5, 5}), ContractError);
  EXPECT_THROW(x.host<double>(), ContractError);
  EXPECT_THROW(x.device<float>(), ContractError);
  EXPECT_THROW(expect_shape(x, {6, 4}, "x"), ContractError);
}

TEST_F(Views, CopyFollowsStrides) {
  std::vector<float> out(12, -1.0F);
  const TensorView to = host_view(out.data(), {4, 3});
  copy(view({4, 6}).slice(1, 3, 3), to);
  EXPECT_EQ(out, (std::vector<float>{3, 4, 5, 9, 10, 11, 15, 16, 17, 21, 22, 23}));
  EXPECT_THROW(copy(view({4, 6}), to), ContractError);
  std::vector<double> other(12);
  EXPECT_THROW(copy(to, host_view(other.data(), {4, 3})), ContractError);
}

TEST(Device, IsRefusedByNameWithoutCuda) {
  if (device::count() > 0) GTEST_SKIP() << "a GPU is here";
  try {
    const Buffer buffer(Space::device, 16, "a test");
    FAIL() << "device memory without a device";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("a test"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace photon
