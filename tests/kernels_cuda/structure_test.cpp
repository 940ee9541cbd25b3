// Embedding and the rows of groups.
#include "kernels/embedding.hpp"
#include "kernels/group_rows.hpp"
#include "parity.hpp"

namespace photon {
namespace {

using namespace testing;

class CudaStructure : public OnDevice {};
PHOTON_BOTH_DTYPES(CudaStructure);

TEST_P(CudaStructure, Embedding) {
  for (const auto& [tokens, vocabulary, width] : std::vector<std::array<std::int64_t, 3>>{
           {1, 1, 3}, {500, 7, 24}, {3000, 1000, 17}, {40, 259, 520}, {700, 2, 2056}}) {
    const IntPair token = pair_of(random_integers(tokens, static_cast<std::int32_t>(vocabulary), 1));
    const Pair table = random_pair(GetParam(), {vocabulary, width}, 2);
    const Pair out = poisoned_pair(GetParam(), {tokens, width});
    embedding_forward(host_, table.host, token.host, out.host);
    cuda::embedding_forward(ctx_, table.device, token.device, out.device);
    expect_match(out, 0.0);
    for (const DType dtype : {DType::f32, GetParam()}) {
      const Pair dout = random_pair(GetParam(), {tokens, width}, 3);
      const Pair dtable = random_pair(dtype, {vocabulary, width}, 4);
      embedding_backward(host_, dout.host, token.host, dtable.host);
      cuda::embedding_backward(ctx_, dout.device, token.device, dtable.device);
      // Float32 sums in the same order as the host's.
      expect_match(dtable, dtype == DType::f32 ? 0.0 : tolerance(tokens));
    }
  }
}

TEST_P(CudaStructure, DecoderRows) {
  struct Case {
    std::int64_t batch, groups, chunk, prefix, lookback, width;
  };
  for (const Case c :
       {Case{1, 1, 1, 1, 0, 3}, Case{2, 5, 4, 4, 0, 8}, Case{3, 4, 3, 2, 2, 5}, Case{2, 6, 2, 1, 7, 16}}) {
    const std::int64_t positions = c.prefix + c.lookback + c.chunk - 1;
    const Pair u = random_pair(GetParam(), {c.batch * c.groups, c.prefix, c.width}, 1);
    const Pair content = random_pair(GetParam(), {c.batch, c.groups * c.chunk, c.width}, 2);
    const Pair out = poisoned_pair(GetParam(), {c.batch * c.groups, positions, c.width});
    decoder_rows_forward(host_, u.host, content.host, c.lookback, out.host);
    cuda::decoder_rows_forward(ctx_, u.device, content.device, c.lookback, out.device);
    expect_match(out, 0.0);

    const Pair dout = random_pair(GetParam(), {c.batch * c.groups, positions, c.width}, 3);
    const Pair du = poisoned_pair(GetParam(), {c.batch * c.groups, c.prefix, c.width});
    const Pair dcontent = random_pair(GetParam(), {c.batch, c.groups * c.chunk, c.width}, 4);
    decoder_rows_backward(host_, dout.host, c.lookback, du.host, dcontent.host);
    cuda::decoder_rows_backward(ctx_, dout.device, c.lookback, du.device, dcontent.device);
    expect_match(du, 0.0);
    expect_match(dcontent, tolerance(4));
    cuda::decoder_rows_backward(ctx_, dout.device, c.lookback, du.device, {});
    expect_match(du, 0.0);
  }
}

TEST_P(CudaStructure, Shift) {
  for (const auto& [batch, groups, width] :
       std::vector<std::array<std::int64_t, 3>>{{1, 1, 1}, {3, 5, 7}, {9, 2, 64}}) {
    const Pair x = random_pair(GetParam(), {batch, groups, width}, 1);
    const Pair start = random_pair(GetParam(), {width}, 2);
    const Pair c = poisoned_pair(GetParam(), {batch, groups, width});
    shift_forward(host_, x.host, start.host, c.host);
    cuda::shift_forward(ctx_, x.device, start.device, c.device);
    expect_match(c, 0.0);
    const Pair dx = random_pair(GetParam(), {batch, groups, width}, 3);
    const Pair dstart = random_pair(DType::f32, {width}, 4);
    shift_backward(host_, c.host, dx.host, dstart.host);
    cuda::shift_backward(ctx_, c.device, dx.device, dstart.device);
    expect_match(dx, tolerance(2));
    expect_match(dstart, float32_tolerance(batch));
  }
}

}  // namespace
}  // namespace photon
