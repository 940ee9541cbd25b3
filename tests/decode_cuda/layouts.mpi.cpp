// A coarse rank and its shards, each with its GPU, latents and tokens by NCCL: the results of the whole model on one.
#include "../decode/shares.hpp"
#include "decode/chunk_messages.hpp"
#include "testing/world.hpp"

namespace photon {
namespace {

using testing::all_ways;
using testing::decode;
using testing::decode_with;
using testing::expect_same;
using testing::NamedConfig;
using testing::stack;
using testing::world;

class DeviceDecodeLayouts : public ::testing::TestWithParam<NamedConfig> {
 protected:
  void SetUp() override {
    if (world().size() == 1 || device::count() < world().local_size()) {
      GTEST_SKIP() << "needs " << std::max(2, world().local_size()) << " GPUs, there are " << device::count();
    }
    world().use_gpu();
    stream_ = device::make_stream();
    scratch_ = Arena(Space::device, std::int64_t{64} << 20, "the test's scratch");
    ctx_ = {.space = Space::device, .numerics = Numerics::deterministic, .stream = stream_, .scratch = &scratch_};
  }
  void TearDown() override {
    if (stream_.handle() != nullptr) device::destroy_stream(stream_);
  }

  std::unique_ptr<PhotonShare> share_of(const Model& host, const LayerRange& layers, DType dtype) const {
    auto share = std::make_unique<PhotonShare>(host.config(), layers, Space::device, dtype);
    share->parameters().assign(testing::share_of(host, layers)->parameters());
    return share;
  }

  void expect_same_as_whole(GenerationMode mode, DType dtype) {
    const ModelConfig& config = GetParam().config;
    const auto host = testing::random_model(config, 8);
    std::vector<Request> rows = all_ways(config);
    EngineOptions options;
    options.mode = mode;
    options.logprobs = true;
    Communicator group = world().all().split(0, "decoding group");
    use_device_for_chunks(group, ctx_);
    if (group.rank() > 0) {
      const auto share = share_of(*host, chunk_layers(config), dtype);
      ChunkServer server(config, share->tensors(), share->dtype(), ctx_);
      EXPECT_FALSE(serve_chunks(server, group, nullptr));
      group.synchronize();
      return;
    }
    const auto whole = make_frozen_model(config, Space::device, 1, dtype);
    whole->parameters().assign(host->parameters());
    options.max_batch = 16;
    const auto expected = decode(*whole, rows, options, 2, ctx_);
    const auto share = share_of(*host, coarse_layers(config), dtype);
    ChunkMessages link(group, config.cumulative_chunk(1), decode_cohorts, Space::device);
    for (const std::int64_t batch : {1, 7, 40}) {
      SCOPED_TRACE(::testing::Message() << "batch " << batch);
      options.max_batch = batch;
      expect_same(expected, decode_with(decoder_source(*share, ctx_, link), rows, options, 2));
    }
    link.finish(false);
    group.synchronize();
  }

  Stream stream_;
  Arena scratch_;
  Context ctx_;
};

TEST_P(DeviceDecodeLayouts, HierGenIsThatOfOneGpu) {
  expect_same_as_whole(GenerationMode::hiergen, DType::f32);
}
TEST_P(DeviceDecodeLayouts, HierGenIsThatOfOneGpuInBf16) {
  expect_same_as_whole(GenerationMode::hiergen, DType::bf16);
}
TEST_P(DeviceDecodeLayouts, RecGenIsThatOfOneGpuInBf16) {
  if (GetParam().config.num_levels() < 2 || GetParam().config.lookback > 0) GTEST_SKIP() << "no RecGen";
  expect_same_as_whole(GenerationMode::recgen, DType::bf16);
}

std::vector<NamedConfig> shapes() {
  std::vector<NamedConfig> result = testing::photon_shapes();
  result.push_back({"heads_of_64", testing::photon_config(67, 128,
                                                          {{128, 4, 4, stack(2, 2, 2, 96), stack(2, 2, 1, 96)},
                                                           {128, 4, 4, stack(1, 2, 2, 96), stack(2, 2, 2, 96)}})});
  return result;
}
INSTANTIATE_TEST_SUITE_P(Shapes, DeviceDecodeLayouts, ::testing::ValuesIn(shapes()),
                         [](const auto& shape) { return shape.param.name; });

}  // namespace
}  // namespace photon
