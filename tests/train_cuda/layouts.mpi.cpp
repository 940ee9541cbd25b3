// Layouts of several GPUs, messages and sums by NCCL, against the whole model in one process on the CPU.
#include "../train/layouts.hpp"

#include "tensor/device.hpp"

namespace photon {
namespace {

using testing::photon_model;
using testing::vanilla_model;
using testing::world;

class DeviceLayouts : public testing::Layouts {
 protected:
  void SetUp() override {
    if (device::count() < world().local_size()) {
      GTEST_SKIP() << "needs " << world().local_size() << " GPUs, there are " << device::count();
    }
    world().use_gpu();
    place_ = {Space::device, DType::f32};
    loss_tolerance_ = 1e-5;
    gradient_tolerance_ = 1e-4;
  }
};

TEST_F(DeviceLayouts, OfTwoLevels) {
  expect_equal(photon_model(2),
               {{1, {}},
                {2, {.data = 2, .microbatch_size = 2}},
                {2, {.stages = 2, .cut = "decoder2", .microbatch_size = 2}},
                {2, {.stages = 2, .cut = "decoder1.1", .microbatch_size = 1}},
                {4, {.data = 2, .stages = 2, .cut = "decoder1", .microbatch_size = 2}},
                {4, {.stages = 2, .shards = 3, .cut = "decoder2", .microbatch_size = 4}},
                {4, {.stages = 2, .shards = 3, .cut = "decoder1", .microbatch_size = 1}},
                {4, {.stages = 3, .shards = 2, .cut = "encoder2,decoder2", .microbatch_size = 2}}},
               15);
}

TEST_F(DeviceLayouts, WithSharedMoments) {
  expect_equal(photon_model(2),
               {{2, {.microbatch_size = 2, .zero = 1}},
                {4, {.microbatch_size = 1, .zero = 1}},
                {4, {.stages = 2, .shards = 3, .cut = "decoder1", .microbatch_size = 4, .zero = 1}}},
               15);
}

TEST_F(DeviceLayouts, OfVanillaModels) {
  expect_equal(vanilla_model(), {{2, {.stages = 2, .microbatch_size = 2}}, {4, {.stages = 4, .microbatch_size = 2}}},
               15);
}

TEST_F(DeviceLayouts, InBf16) {
  place_.dtype = DType::bf16;
  loss_tolerance_ = 2e-2;
  gradient_tolerance_ = 0.2;
  expect_equal(photon_model(2),
               {{2, {.data = 2, .microbatch_size = 2}},
                {2, {.stages = 2, .cut = "decoder1", .microbatch_size = 2}},
                {4, {.stages = 2, .shards = 3, .cut = "decoder1", .microbatch_size = 4}}},
               15);
}

}  // namespace
}  // namespace photon
