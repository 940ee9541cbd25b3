// The ops that take workspace run in an arena of the size that is planned for them.
#include "kernels/cuda/scratch.hpp"

#include "kernels/attention.hpp"
#include "kernels/embedding.hpp"
#include "kernels/head_loss.hpp"
#include "kernels/norm.hpp"
#include "kernels/optimizer.hpp"
#include "kernels/rec_loss.hpp"
#include "kernels/sampling.hpp"
#include "parity.hpp"

namespace photon {
namespace {

using namespace testing;

class CudaScratch : public OnDevice {
 protected:
  void plan(cuda::ScratchLimits limits) {
    limits.dtype = GetParam();
    scratch_ = Arena(Space::device, cuda::scratch_bytes(limits), "the planned scratch");
  }
};
PHOTON_BOTH_DTYPES(CudaScratch);

TEST_P(CudaScratch, HoldsNormsAndSums) {
  plan({.rows = 700, .width = 96});
  const Pair x = random_pair(GetParam(), {700, 96}, 1);
  const Pair w = random_pair(DType::f32, {96}, 2);
  const Pair rstd = random_pair(DType::f32, {700}, 3);
  const Pair dw = random_pair(DType::f32, {96}, 4);
  EXPECT_NO_THROW(cuda::rms_norm_backward(ctx_, x.device, x.device, w.device, rstd.device, {}, x.device, dw.device));
  EXPECT_NO_THROW(cuda::sum_of_squares(ctx_, dw.device));
  EXPECT_NO_THROW(cuda::rec_loss_forward(ctx_, RecDistance::mse, x.device, x.device, {}));
  device::synchronize(stream_);
}

TEST_P(CudaScratch, HoldsTheEmbeddingsSort) {
  for (const std::int64_t tokens : {1, 5000, 300000}) {
    plan({.rows = tokens});
    const IntPair token = pair_of(random_integers(tokens, 1000, 1));
    const Pair dout = random_pair(GetParam(), {tokens, 2}, 2);
    const Pair dtable = random_pair(DType::f32, {1000, 2}, 3);
    EXPECT_NO_THROW(cuda::embedding_backward(ctx_, dout.device, token.device, dtable.device)) << tokens;
    device::synchronize(stream_);
  }
}

TEST_P(CudaScratch, HoldsTheHeadsLogits) {
  plan({.rows = 300, .vocabulary = 517});
  const Pair y = random_pair(GetParam(), {300, 16}, 1);
  const Pair w = random_pair(GetParam(), {517, 16}, 2);
  const IntPair targets = pair_of(random_integers(300, 517, 3));
  const Pair dy = poisoned_pair(GetParam(), {300, 16});
  const Pair dw = random_pair(DType::f32, {517, 16}, 4);
  EXPECT_NO_THROW(cuda::head_loss_backward(ctx_, y.device, w.device, targets.device, {}, 1.0, dy.device, dw.device));
}

TEST_P(CudaScratch, HoldsAttentionAndSampling) {
  plan({.attention_rows = 2 * 70 * 3});
  const Pair q = random_pair(GetParam(), {2, 70, 3, 16}, 1);
  const Pair lse = random_pair(DType::f32, {2, 3, 70}, 2);
  const Pair dq = poisoned_pair(GetParam(), {2, 70, 3, 16});
  EXPECT_NO_THROW(cuda::stream_attention_backward(ctx_, q.device, q.device, q.device, q.device, lse.device, q.device, 0,
                                                  dq.device, dq.device, dq.device));
  device::synchronize(stream_);

  for (const std::int64_t width : {64, 128}) {
    plan({.attention_rows = 2 * 70 * 3, .attention_streams = 6, .attention_width = width});
    const Pair x = random_pair(GetParam(), {2, 70, 3, width}, 1);
    const Pair dx = poisoned_pair(GetParam(), {2, 70, 3, width});
    EXPECT_NO_THROW(cuda::stream_attention_backward(ctx_, x.device, x.device, x.device, x.device, lse.device, x.device,
                                                    0, dx.device, dx.device, dx.device));
    device::synchronize(stream_);
  }

  const std::vector<std::int32_t> seen(100, 3);
  plan({.vocabulary = 3001, .sampled_rows = 90, .seen_tokens = 9000});
  const Pair logits = random_pair(DType::f32, {90, 3001}, 3);
  const SampleRow row{.options = {.temperature = 1.0, .repetition_penalty = 1.1}, .key = {}, .seen = seen};
  std::vector<std::int32_t> tokens(90);
  EXPECT_NO_THROW(
      cuda::sample(ctx_, logits.device, std::vector<SampleRow>(90, row), host_view(tokens.data(), {90}), {}));
}

}  // namespace
}  // namespace photon
