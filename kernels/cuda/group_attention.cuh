// What the bf16 bodies of attention inside groups share: 8 rows of a head over the lanes of a warp.
//
// Lane l holds, of row l / 4, the packs of 8 elements at 32 j + 8 (l % 4) for j = 0 .. hd/32 - 1. As operands of
// mma.sync the packs are 8 x 8 fragments whose columns stand in another order than in memory: products over hd do not
// mind, and products that yield rows of hd elements return them in the lane and place where they are stored.
// Rotations pair elements hd/2 apart, which lie in the same lane.
#pragma once

#include <cmath>

#include "kernels/cuda/group_attention.hpp"
#include "kernels/cuda/rows8.cuh"

namespace photon::cuda::group {

using mma::pack;

inline constexpr int rows_a_tile = 8;
inline constexpr float log2_e = 1.4426950408889634F;

struct Sizes {
  unsigned num_pairs;  // groups times key heads
  unsigned key_heads;  // of a group
  int heads_a_key;     // query heads that share a key head
  int positions;       // S
  int queries;         // Sq
  float scale;
  const float* cosines;  // [positions, hd/2]; null: q and k come rotated
  const float* sines;
};

// 8 rows of hd elements, over the lanes of a warp.
template <int HD>
struct Rows {
  static constexpr int num_packs = HD / 32;
  std::uint32_t x[num_packs][4];
};

struct Place {
  int row;   // of the tile
  int pack;  // among the 4 that lie side by side
};
__device__ inline Place place_of_lane() {
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  return {lane / 4, lane % 4};
}

template <int HD>
__device__ inline Rows<HD> load_rows(const bf16* __restrict__ from, std::int64_t stride, int count, Place at) {
  Rows<HD> rows{};
  if (at.row < count) {
    from += at.row * stride + at.pack * 8;
#pragma unroll
    for (int j = 0; j < Rows<HD>::num_packs; ++j) {
      const uint4 pack = __ldcs(reinterpret_cast<const uint4*>(from + 32 * j));
      rows.x[j][0] = pack.x;
      rows.x[j][1] = pack.y;
      rows.x[j][2] = pack.z;
      rows.x[j][3] = pack.w;
    }
  }
  return rows;
}

template <int HD>
__device__ inline void store_rows(bf16* __restrict__ to, std::int64_t stride, int count, Place at,
                                  const Rows<HD>& rows) {
  if (at.row >= count) return;
  to += at.row * stride + at.pack * 8;
#pragma unroll
  for (int j = 0; j < Rows<HD>::num_packs; ++j) {
    *reinterpret_cast<uint4*>(to + 32 * j) = make_uint4(rows.x[j][0], rows.x[j][1], rows.x[j][2], rows.x[j][3]);
  }
}

// cos and sin of one pack of angles.
struct Angles {
  float2 cosine[4];
  float2 sine[4];
};
template <int HD>
__device__ inline Angles angles_of(const Sizes& s, int position, int j, Place at) {
  const int first = min(position, s.positions - 1) * (HD / 2) + 32 * j + 8 * at.pack;  // rows past the last are idle
  Angles a;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const float4 c = __ldg(reinterpret_cast<const float4*>(s.cosines + first + 2 * i));
    const float4 d = __ldg(reinterpret_cast<const float4*>(s.sines + first + 2 * i));
    a.cosine[i] = {c.x, c.y};
    a.cosine[i + 1] = {c.z, c.w};
    a.sine[i] = {d.x, d.y};
    a.sine[i + 1] = {d.z, d.w};
  }
  return a;
}

// (low, high) turned by the angle; the other way with sine negated.
__device__ inline void turn(float2 cosine, float2 sine, float2& low, float2& high) {
  const float2 a = low;
  low = {rotated_low(a.x, high.x, cosine.x, sine.x), rotated_low(a.y, high.y, cosine.y, sine.y)};
  high = {rotated_high(a.x, high.x, cosine.x, sine.x), rotated_high(a.y, high.y, cosine.y, sine.y)};
}

// Rows at positions first .. first + 7.
template <int HD>
__device__ inline void rotate(const Sizes& s, int first, Place at, Rows<HD>& rows) {
  constexpr int half = Rows<HD>::num_packs / 2;
#pragma unroll
  for (int j = 0; j < half; ++j) {
    const Angles a = angles_of<HD>(s, first + at.row, j, at);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 low = unpack(rows.x[j][i]);
      float2 high = unpack(rows.x[j + half][i]);
      turn(a.cosine[i], a.sine[i], low, high);
      rows.x[j][i] = pack(low.x, low.y);
      rows.x[j + half][i] = pack(high.x, high.y);
    }
  }
}

// a b^T.
template <int HD>
__device__ inline float2 products(const Rows<HD>& a, const Rows<HD>& b) {
  float2 c{0, 0};
#pragma unroll
  for (int j = 0; j < Rows<HD>::num_packs; ++j) {
    multiply_rows(c, a.x[j][0], a.x[j][1], b.x[j][0], b.x[j][1]);
    multiply_rows(c, a.x[j][2], a.x[j][3], b.x[j][2], b.x[j][3]);
  }
  return c;
}

// Writes `count` rows weights rows[8, hd], turned back from the positions first .. first + 7 when the op rotates.
template <int HD, bool rotates>
__device__ inline void store_products(const Sizes& s, std::uint32_t weights, const Rows<HD>& rows, int first,
                                      bf16* __restrict__ to, std::int64_t stride, int count, Place at) {
  constexpr int half = Rows<HD>::num_packs / 2;
  to += at.row * stride + at.pack * 8;
#pragma unroll
  for (int j = 0; j < half; ++j) {
    Angles a;
    if constexpr (rotates) a = angles_of<HD>(s, first + at.row, j, at);
    std::uint32_t low[4];
    std::uint32_t high[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 x = multiply_columns(weights, transpose(rows.x[j][i]));
      float2 y = multiply_columns(weights, transpose(rows.x[j + half][i]));
      if constexpr (rotates) turn(a.cosine[i], {-a.sine[i].x, -a.sine[i].y}, x, y);
      low[i] = pack(x.x, x.y);
      high[i] = pack(y.x, y.y);
    }
    if (at.row < count) {
      *reinterpret_cast<uint4*>(to + 32 * j) = make_uint4(low[0], low[1], low[2], low[3]);
      *reinterpret_cast<uint4*>(to + 32 * (j + half)) = make_uint4(high[0], high[1], high[2], high[3]);
    }
  }
}

// Rows of sums in float32, where they are added over several query heads.
template <int HD>
struct Sums {
  float2 x[Rows<HD>::num_packs][4];
};

template <int HD>
__device__ inline void add_products(std::uint32_t weights, const Rows<HD>& rows, Sums<HD>& sums) {
#pragma unroll
  for (int j = 0; j < Rows<HD>::num_packs; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 c = multiply_columns(weights, transpose(rows.x[j][i]));
      sums.x[j][i].x += c.x;
      sums.x[j][i].y += c.y;
    }
  }
}

// sums, turned back from the positions first .. first + 7 when the op rotates.
template <int HD, bool rotates>
__device__ inline Rows<HD> finished(const Sizes& s, int first, Place at, const Sums<HD>& sums) {
  Rows<HD> rows;
  constexpr int half = Rows<HD>::num_packs / 2;
#pragma unroll
  for (int j = 0; j < half; ++j) {
    Angles a;
    if constexpr (rotates) a = angles_of<HD>(s, first + at.row, j, at);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 low = sums.x[j][i];
      float2 high = sums.x[j + half][i];
      if constexpr (rotates) turn(a.cosine[i], {-a.sine[i].x, -a.sine[i].y}, low, high);
      rows.x[j][i] = pack(low.x, low.y);
      rows.x[j + half][i] = pack(high.x, high.y);
    }
  }
  return rows;
}

struct Inputs {
  const bf16* q;
  Strides qs;
  const bf16* k;
  Strides ks;
  const bf16* v;
  Strides vs;
};

struct Gradients {
  const bf16* dout;
  Strides ds;
  bf16* dq;
  Strides dqs;
  bf16* dk;
  Strides dks;
  bf16* dv;
  Strides dvs;
};

// Calls body<HD, rotates>.
template <class Body>
void with_shape(std::int64_t head_width, bool rotates, Body&& body) {
  const auto with_width = [&]<int HD>(std::integral_constant<int, HD>) {
    if (rotates) {
      body.template operator()<HD, true>();
    } else {
      body.template operator()<HD, false>();
    }
  };
  if (head_width == 64) {
    with_width(std::integral_constant<int, 64>{});
  } else {
    with_width(std::integral_constant<int, 128>{});
  }
}

inline Sizes sizes_of(const GroupAttention& a) {
  return {.num_pairs = static_cast<unsigned>(a.k.size(0) * a.k.size(2)),
          .key_heads = static_cast<unsigned>(a.k.size(2)),
          .heads_a_key = static_cast<int>(a.q.size(2) / a.k.size(2)),
          .positions = static_cast<int>(a.k.size(1)),
          .queries = static_cast<int>(a.q.size(1)),
          .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(a.q.size(3)))),
          .cosines = a.table != nullptr ? device_data<float>(a.table->cosines()) : nullptr,
          .sines = a.table != nullptr ? device_data<float>(a.table->sines()) : nullptr};
}
inline Inputs inputs_of(const GroupAttention& a) {
  return {device_data<bf16>(a.q), strides_of(a.q),        device_data<bf16>(a.k),
          strides_of(a.k),        device_data<bf16>(a.v), strides_of(a.v)};
}
inline Gradients gradients_of(const GroupAttention& a) {
  return {device_data<bf16>(a.dout), strides_of(a.dout), device_data<bf16>(a.dq), strides_of(a.dq),
          device_data<bf16>(a.dk),   strides_of(a.dk),   device_data<bf16>(a.dv), strides_of(a.dv)};
}

// bf16 rows of 16-byte packs, heads of 64 or 128.
inline bool fits_fragments(const GroupAttention& a) {
  return a.q.dtype() == DType::bf16 && (a.q.size(3) == 64 || a.q.size(3) == 128) &&
         a.k.size(0) * a.k.size(2) <= std::numeric_limits<int>::max() &&
         all_pack(a.q, a.k, a.v, ConstTensorView(a.out), a.dout, ConstTensorView(a.dq), ConstTensorView(a.dk),
                  ConstTensorView(a.dv));
}

}  // namespace photon::cuda::group
