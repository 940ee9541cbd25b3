// Attention inside groups of at most 8 positions: a warp a (group, key head). q, k, v, out and their gradients are read
// or written once, in 16-byte accesses, and never leave registers in between.
#include "kernels/cuda/group_attention.cuh"

namespace photon::cuda {
namespace {

using namespace group;

constexpr int warps_a_block = 4;
constexpr int threads = warps_a_block * warp_width;

// scores -> exp(score - largest) of the keys that a query sees, and their sum. A lane has keys 2 pack and 2 pack + 1.
struct Softmax {
  float2 weight;
  float inverse;  // 1 / sum
};
__device__ inline Softmax softmax(const Sizes& s, Place at, float2 scores) {
  const int last = at.row < s.queries ? s.positions - s.queries + at.row : -1;
  const bool sees_first = 2 * at.pack <= last;
  const bool sees_second = 2 * at.pack + 1 <= last;
  const float factor = s.scale * log2_e;
  const float first = sees_first ? scores.x * factor : -INFINITY;
  const float second = sees_second ? scores.y * factor : -INFINITY;
  const float largest = row_max4(fmaxf(first, second));
  const float2 weight = {sees_first ? exp2f(first - largest) : 0.0F, sees_second ? exp2f(second - largest) : 0.0F};
  const float sum = row_sum4(weight.x + weight.y);
  return {weight, last < 0 ? 0.0F : 1.0F / sum};
}

template <int HD, bool rotates>
__global__ void __launch_bounds__(threads) forward_kernel(Inputs in, bf16* __restrict__ out, Strides os, Sizes s) {
  const unsigned pair = blockIdx.x * warps_a_block + threadIdx.x / warp_width;
  if (pair >= s.num_pairs) return;
  const unsigned g = pair / s.key_heads;
  const unsigned kh = pair - g * s.key_heads;
  const Place at = place_of_lane();
  const int offset = s.positions - s.queries;
  const std::int64_t first_head = std::int64_t{kh} * s.heads_a_key;
  const bf16* q = in.q + g * in.qs.outer + first_head * in.qs.head;
  Rows<HD> queries = load_rows<HD>(q, in.qs.position, s.queries, at);
  Rows<HD> keys = load_rows<HD>(in.k + g * in.ks.outer + kh * in.ks.head, in.ks.position, s.positions, at);
  Rows<HD> values = load_rows<HD>(in.v + g * in.vs.outer + kh * in.vs.head, in.vs.position, s.positions, at);
  if constexpr (rotates) rotate(s, 0, at, keys);
  out += g * os.outer + first_head * os.head;
  for (int h = 0; h < s.heads_a_key; ++h) {
    if (h > 0) queries = load_rows<HD>(q += in.qs.head, in.qs.position, s.queries, at);
    if constexpr (rotates) rotate(s, offset, at, queries);
    const Softmax p = softmax(s, at, products(queries, keys));
    const std::uint32_t weights = pack(p.weight.x, p.weight.y);
    Rows<HD> result;
#pragma unroll
    for (int j = 0; j < Rows<HD>::num_packs; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 c = multiply_columns(weights, transpose(values.x[j][i]));
        result.x[j][i] = pack(c.x * p.inverse, c.y * p.inverse);
      }
    }
    store_rows<HD>(out + h * os.head, os.position, s.queries, at, result);
  }
}

// The probabilities and the gradients of the scores, as operands of products.
struct Weights {
  std::uint32_t probabilities;
  std::uint32_t dscores;
};
template <int HD>
__device__ inline Weights weights_of(const Sizes& s, Place at, const Rows<HD>& queries, const Rows<HD>& keys,
                                     const Rows<HD>& values, const Rows<HD>& slopes) {
  const Softmax softened = softmax(s, at, products(queries, keys));
  const float2 p = {softened.weight.x * softened.inverse, softened.weight.y * softened.inverse};
  const float2 dp = products(slopes, values);
  const float mean = row_sum4(p.x * dp.x + p.y * dp.y);
  return {pack(p.x, p.y), pack(s.scale * p.x * (dp.x - mean), s.scale * p.y * (dp.y - mean))};
}

template <int HD, bool rotates, bool grouped>
__global__ void __launch_bounds__(threads) backward_kernel(Inputs in, Gradients out, Sizes s) {
  const unsigned pair = blockIdx.x * warps_a_block + threadIdx.x / warp_width;
  if (pair >= s.num_pairs) return;
  const unsigned g = pair / s.key_heads;
  const unsigned kh = pair - g * s.key_heads;
  const Place at = place_of_lane();
  const int offset = s.positions - s.queries;
  const std::int64_t first_head = std::int64_t{kh} * s.heads_a_key;
  const bf16* q = in.q + g * in.qs.outer + first_head * in.qs.head;
  const bf16* dout = out.dout + g * out.ds.outer + first_head * out.ds.head;
  bf16* dq = out.dq + g * out.dqs.outer + first_head * out.dqs.head;
  bf16* const dk = out.dk + g * out.dks.outer + kh * out.dks.head;
  bf16* const dv = out.dv + g * out.dvs.outer + kh * out.dvs.head;
  Rows<HD> queries = load_rows<HD>(q, in.qs.position, s.queries, at);
  Rows<HD> keys = load_rows<HD>(in.k + g * in.ks.outer + kh * in.ks.head, in.ks.position, s.positions, at);
  Rows<HD> slopes = load_rows<HD>(dout, out.ds.position, s.queries, at);
  const Rows<HD> values = load_rows<HD>(in.v + g * in.vs.outer + kh * in.vs.head, in.vs.position, s.positions, at);
  if constexpr (rotates) rotate(s, 0, at, keys);
  if constexpr (!grouped) {
    if constexpr (rotates) rotate(s, offset, at, queries);
    const Weights w = weights_of(s, at, queries, keys, values, slopes);
    store_products<HD, rotates>(s, w.dscores, keys, offset, dq, out.dqs.position, s.queries, at);
    store_products<HD, rotates>(s, transpose(w.dscores), queries, 0, dk, out.dks.position, s.positions, at);
    store_products<HD, false>(s, transpose(w.probabilities), slopes, 0, dv, out.dvs.position, s.positions, at);
  } else {
    Sums<HD> dkeys{};
    Sums<HD> dvalues{};
    for (int h = 0; h < s.heads_a_key; ++h) {
      if (h > 0) {
        queries = load_rows<HD>(q += in.qs.head, in.qs.position, s.queries, at);
        slopes = load_rows<HD>(dout += out.ds.head, out.ds.position, s.queries, at);
        dq += out.dqs.head;
      }
      if constexpr (rotates) rotate(s, offset, at, queries);
      const Weights w = weights_of(s, at, queries, keys, values, slopes);
      store_products<HD, rotates>(s, w.dscores, keys, offset, dq, out.dqs.position, s.queries, at);
      add_products(transpose(w.dscores), queries, dkeys);
      add_products(transpose(w.probabilities), slopes, dvalues);
    }
    store_rows<HD>(dk, out.dks.position, s.positions, at, finished<HD, rotates>(s, 0, at, dkeys));
    store_rows<HD>(dv, out.dvs.position, s.positions, at, finished<HD, false>(s, 0, at, dvalues));
  }
}

}  // namespace

bool fits_a_warp(const GroupAttention& a) {
  return a.k.size(1) <= rows_a_tile && fits_fragments(a);
}

void warp_group_attention(const Context& ctx, const GroupAttention& a) {
  const Sizes s = sizes_of(a);
  const Inputs in = inputs_of(a);
  const auto blocks = static_cast<unsigned>(ceil_div(s.num_pairs, warps_a_block));
  with_shape(a.q.size(3), a.table != nullptr, [&]<int HD, bool rotates>() {
    if (!a.dout) {
      forward_kernel<HD, rotates>
          <<<blocks, threads, 0, stream_of(ctx)>>>(in, device_data<bf16>(a.out), strides_of(a.out), s);
    } else if (s.heads_a_key == 1) {
      backward_kernel<HD, rotates, false><<<blocks, threads, 0, stream_of(ctx)>>>(in, gradients_of(a), s);
    } else {
      backward_kernel<HD, rotates, true><<<blocks, threads, 0, stream_of(ctx)>>>(in, gradients_of(a), s);
    }
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
