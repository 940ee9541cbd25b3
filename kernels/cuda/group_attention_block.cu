// Attention inside groups of 9 to 64 positions: a block a (group, key head), a warp for every 8 keys. Everything of the
// group stands in shared memory as bf16, rotated there once; each of q, k, v, out and their gradients is read or
// written once.
#include "kernels/cuda/group_attention.cuh"

namespace photon::cuda {
namespace {

using namespace group;

// Rows in shared memory are 64 bytes longer than a head, so that the 16-byte packs that lanes read at a time lie in
// different banks.
template <int HD>
struct SharedRows {
  static constexpr int stride = HD + 32;  // elements
  static constexpr int packs_a_row = HD / 8;
  bf16* rows;

  __device__ uint4* at(int row, int pack) const { return reinterpret_cast<uint4*>(rows + row * stride + 8 * pack); }
};

// Queues the copy of `count` rows, and zeros up to `padded` rows.
template <int HD>
__device__ void fetch_rows(SharedRows<HD> to, const bf16* __restrict__ from, std::int64_t stride, int count,
                           int padded) {
  constexpr int packs_a_row = SharedRows<HD>::packs_a_row;
  for (int i = static_cast<int>(threadIdx.x); i < padded * packs_a_row; i += static_cast<int>(blockDim.x)) {
    const int row = i / packs_a_row;
    const int pack = i % packs_a_row;
    const bool inside = row < count;
    mma::copy_chunk(mma::shared_address(to.at(row, pack)), inside ? from + row * stride + 8 * pack : from, inside);
  }
}

// Turns `count` rows, at positions first, first + 1, ... of the group.
template <int HD>
__device__ void rotate_rows(SharedRows<HD> x, const Sizes& s, int first, int count) {
  constexpr int half = SharedRows<HD>::packs_a_row / 2;
  for (int i = static_cast<int>(threadIdx.x); i < count * half; i += static_cast<int>(blockDim.x)) {
    const int row = i / half;
    const int pack_index = i % half;
    uint4* const low = x.at(row, pack_index);
    uint4* const high = x.at(row, pack_index + half);
    HeldPack<bf16> a = {{low->x, low->y, low->z, low->w}};
    HeldPack<bf16> b = {{high->x, high->y, high->z, high->w}};
    const int angle = (first + row) * (HD / 2) + 8 * pack_index;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float2 c = a.pair(j);
      float2 d = b.pair(j);
      turn(__ldg(reinterpret_cast<const float2*>(s.cosines + angle) + j),
           __ldg(reinterpret_cast<const float2*>(s.sines + angle) + j), c, d);
      a.set_pair(j, c);
      b.set_pair(j, d);
    }
    *low = make_uint4(a.words[0], a.words[1], a.words[2], a.words[3]);
    *high = make_uint4(b.words[0], b.words[1], b.words[2], b.words[3]);
  }
}

// Rows 8 tile .. 8 tile + 7.
template <int HD>
__device__ inline Rows<HD> tile_of(SharedRows<HD> x, int tile, Place at) {
  Rows<HD> rows;
#pragma unroll
  for (int j = 0; j < Rows<HD>::num_packs; ++j) {
    const uint4 pack = *x.at(rows_a_tile * tile + at.row, 4 * j + at.pack);
    rows.x[j][0] = pack.x;
    rows.x[j][1] = pack.y;
    rows.x[j][2] = pack.z;
    rows.x[j][3] = pack.w;
  }
  return rows;
}

// How many tiles of keys the queries of a tile see.
__device__ inline int visible_tiles(const Sizes& s, int query_tile) {
  const int last_query = min(rows_a_tile * query_tile + rows_a_tile, s.queries) - 1;
  return (s.positions - s.queries + last_query) / rows_a_tile + 1;
}

// scores[t]: of keys 8 t + 2 pack and the next, for the lane's query of the tile. They become probabilities.
template <int tiles>
__device__ inline void softmax(const Sizes& s, int query_tile, Place at, float2 (&scores)[tiles]) {
  const int query = rows_a_tile * query_tile + at.row;
  const int last = query < s.queries ? s.positions - s.queries + query : -1;  // the last key that it sees
  const float factor = s.scale * log2_e;
  float largest = -INFINITY;
#pragma unroll
  for (int t = 0; t < tiles; ++t) {
    const int key = rows_a_tile * t + 2 * at.pack;
    scores[t] = {key <= last ? scores[t].x * factor : -INFINITY, key + 1 <= last ? scores[t].y * factor : -INFINITY};
    largest = fmaxf(largest, fmaxf(scores[t].x, scores[t].y));
  }
  largest = row_max4(largest);
  float sum = 0;
#pragma unroll
  for (int t = 0; t < tiles; ++t) {
    const int key = rows_a_tile * t + 2 * at.pack;
    scores[t] = {key <= last ? exp2f(scores[t].x - largest) : 0.0F,
                 key + 1 <= last ? exp2f(scores[t].y - largest) : 0.0F};
    sum += scores[t].x + scores[t].y;
  }
  sum = row_sum4(sum);
  const float inverse = last < 0 ? 0.0F : 1.0F / sum;
#pragma unroll
  for (int t = 0; t < tiles; ++t) scores[t] = {scores[t].x * inverse, scores[t].y * inverse};
}

struct Where {
  std::int64_t group;
  std::int64_t key_head;
};
__device__ inline Where where(const Sizes& s) {
  const unsigned group = blockIdx.x / s.key_heads;
  return {group, blockIdx.x - group * s.key_heads};
}

// What both passes need of one query head: q (and k before the first) in shared memory, rotated.
template <int HD, bool rotates>
__device__ inline void arrive(SharedRows<HD> queries, SharedRows<HD> keys, const Sizes& s, bool is_first) {
  mma::commit_copies();
  mma::wait_copies<0>();
  __syncthreads();
  if constexpr (rotates) {
    if (is_first) rotate_rows(keys, s, 0, s.positions);
    rotate_rows(queries, s, s.positions - s.queries, s.queries);
    __syncthreads();
  }
}

template <int HD, bool rotates, int tiles>
__global__ void __launch_bounds__(tiles* warp_width)
    block_forward_kernel(Inputs in, bf16* __restrict__ out, Strides os, Sizes s) {
  extern __shared__ uint4 memory[];
  const int key_rows = static_cast<int>(blockDim.x) / warp_width * rows_a_tile;
  const int query_tiles = (s.queries + rows_a_tile - 1) / rows_a_tile;
  const SharedRows<HD> keys{reinterpret_cast<bf16*>(memory)};
  const SharedRows<HD> values{keys.rows + key_rows * SharedRows<HD>::stride};
  const SharedRows<HD> queries{values.rows + key_rows * SharedRows<HD>::stride};
  const Where w = where(s);
  const Place at = place_of_lane();
  const int warp = static_cast<int>(threadIdx.x) / warp_width;
  fetch_rows(keys, in.k + w.group * in.ks.outer + w.key_head * in.ks.head, in.ks.position, s.positions, key_rows);
  fetch_rows(values, in.v + w.group * in.vs.outer + w.key_head * in.vs.head, in.vs.position, s.positions, key_rows);
  for (int h = 0; h < s.heads_a_key; ++h) {
    const std::int64_t head = w.key_head * s.heads_a_key + h;
    fetch_rows(queries, in.q + w.group * in.qs.outer + head * in.qs.head, in.qs.position, s.queries,
               query_tiles * rows_a_tile);
    arrive<HD, rotates>(queries, keys, s, h == 0);
    if (warp < query_tiles) {
      const Rows<HD> own = tile_of(queries, warp, at);
      const int visible = visible_tiles(s, warp);
      float2 p[tiles];
#pragma unroll
      for (int t = 0; t < tiles; ++t) p[t] = t < visible ? products(own, tile_of(keys, t, at)) : float2{0, 0};
      softmax(s, warp, at, p);
      Sums<HD> sums{};
#pragma unroll
      for (int t = 0; t < tiles; ++t) {
        if (t < visible) add_products(pack(p[t].x, p[t].y), tile_of(values, t, at), sums);
      }
      const std::int64_t first_row = std::int64_t{rows_a_tile} * warp;
      store_rows<HD>(out + w.group * os.outer + head * os.head + first_row * os.position, os.position,
                     s.queries - rows_a_tile * warp, at, finished<HD, false>(s, 0, at, sums));
    }
    __syncthreads();  // the queries are read
  }
}

template <int HD, bool rotates, int tiles>
__global__ void __launch_bounds__(tiles* warp_width) block_backward_kernel(Inputs in, Gradients out, Sizes s) {
  extern __shared__ uint4 memory[];
  const int key_tiles = static_cast<int>(blockDim.x) / warp_width;
  const int key_rows = key_tiles * rows_a_tile;
  const int query_tiles = (s.queries + rows_a_tile - 1) / rows_a_tile;
  const int query_rows = query_tiles * rows_a_tile;
  constexpr int stride = SharedRows<HD>::stride;
  const SharedRows<HD> keys{reinterpret_cast<bf16*>(memory)};
  const SharedRows<HD> values{keys.rows + key_rows * stride};
  const SharedRows<HD> queries{values.rows + key_rows * stride};
  const SharedRows<HD> slopes{queries.rows + query_rows * stride};
  // Probabilities and gradients of scores, a fragment a (tile of queries, tile of keys).
  auto* const weights = reinterpret_cast<std::uint32_t*>(slopes.rows + query_rows * stride);
  std::uint32_t* const dscores = weights + query_tiles * key_tiles * warp_width;
  const Where w = where(s);
  const Place at = place_of_lane();
  const int warp = static_cast<int>(threadIdx.x) / warp_width;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int offset = s.positions - s.queries;
  const auto fragment = [&](int query_tile, int key_tile) {
    return (query_tile * key_tiles + key_tile) * warp_width + lane;
  };
  fetch_rows(keys, in.k + w.group * in.ks.outer + w.key_head * in.ks.head, in.ks.position, s.positions, key_rows);
  fetch_rows(values, in.v + w.group * in.vs.outer + w.key_head * in.vs.head, in.vs.position, s.positions, key_rows);
  Sums<HD> dkeys{};
  Sums<HD> dvalues{};
  for (int h = 0; h < s.heads_a_key; ++h) {
    const std::int64_t head = w.key_head * s.heads_a_key + h;
    fetch_rows(queries, in.q + w.group * in.qs.outer + head * in.qs.head, in.qs.position, s.queries, query_rows);
    fetch_rows(slopes, out.dout + w.group * out.ds.outer + head * out.ds.head, out.ds.position, s.queries, query_rows);
    arrive<HD, rotates>(queries, keys, s, h == 0);
    if (warp < query_tiles) {  // the warp's tile of queries
      const int visible = visible_tiles(s, warp);
      float2 p[tiles];
      float2 dp[tiles];
      {
        const Rows<HD> own = tile_of(queries, warp, at);
#pragma unroll
        for (int t = 0; t < tiles; ++t) p[t] = t < visible ? products(own, tile_of(keys, t, at)) : float2{0, 0};
      }
      softmax(s, warp, at, p);
      float mean = 0;
      {
        const Rows<HD> own = tile_of(slopes, warp, at);
#pragma unroll
        for (int t = 0; t < tiles; ++t) {
          dp[t] = t < visible ? products(own, tile_of(values, t, at)) : float2{0, 0};
          mean += p[t].x * dp[t].x + p[t].y * dp[t].y;
        }
      }
      mean = row_sum4(mean);
      Sums<HD> dqueries{};
#pragma unroll
      for (int t = 0; t < tiles; ++t) {
        if (t >= visible) continue;
        const std::uint32_t slope = pack(s.scale * p[t].x * (dp[t].x - mean), s.scale * p[t].y * (dp[t].y - mean));
        weights[fragment(warp, t)] = pack(p[t].x, p[t].y);
        dscores[fragment(warp, t)] = slope;
        add_products(slope, tile_of(keys, t, at), dqueries);
      }
      const int first = rows_a_tile * warp;
      bf16* const dq = out.dq + w.group * out.dqs.outer + head * out.dqs.head + first * out.dqs.position;
      store_rows<HD>(dq, out.dqs.position, s.queries - first, at,
                     finished<HD, rotates>(s, offset + first, at, dqueries));
    }
    __syncthreads();
    for (int t = 0; t < query_tiles; ++t) {  // the warp's tile of keys
      if (warp >= visible_tiles(s, t)) continue;
      add_products(transpose(dscores[fragment(t, warp)]), tile_of(queries, t, at), dkeys);
      add_products(transpose(weights[fragment(t, warp)]), tile_of(slopes, t, at), dvalues);
    }
    __syncthreads();  // queries, slopes and weights are read
  }
  const int first = rows_a_tile * warp;
  store_rows<HD>(out.dk + w.group * out.dks.outer + w.key_head * out.dks.head + first * out.dks.position,
                 out.dks.position, s.positions - first, at, finished<HD, rotates>(s, first, at, dkeys));
  store_rows<HD>(out.dv + w.group * out.dvs.outer + w.key_head * out.dvs.head + first * out.dvs.position,
                 out.dvs.position, s.positions - first, at, finished<HD, false>(s, 0, at, dvalues));
}

}  // namespace

bool fits_a_block(const GroupAttention& a) {
  return fits_fragments(a);
}

void block_group_attention(const Context& ctx, const GroupAttention& a) {
  const Sizes s = sizes_of(a);
  const Inputs in = inputs_of(a);
  const std::int64_t key_tiles = ceil_div(s.positions, rows_a_tile);
  const std::int64_t query_tiles = ceil_div(s.queries, rows_a_tile);
  const auto block = static_cast<unsigned>(key_tiles * warp_width);
  with_shape(a.q.size(3), a.table != nullptr, [&]<int HD, bool rotates>() {
    const std::int64_t tile_bytes = std::int64_t{rows_a_tile} * SharedRows<HD>::stride * 2;
    const auto launch = [&]<int tiles>(std::integral_constant<int, tiles>) {
      if (!a.dout) {
        const std::int64_t shared = (2 * key_tiles + query_tiles) * tile_bytes;
        allow_shared_memory(block_forward_kernel<HD, rotates, tiles>, shared);
        block_forward_kernel<HD, rotates, tiles>
            <<<s.num_pairs, block, static_cast<std::size_t>(shared), stream_of(ctx)>>>(in, device_data<bf16>(a.out),
                                                                                       strides_of(a.out), s);
        return;
      }
      const std::int64_t shared = 2 * (key_tiles + query_tiles) * tile_bytes + 2 * key_tiles * query_tiles * 128;
      allow_shared_memory(block_backward_kernel<HD, rotates, tiles>, shared);
      block_backward_kernel<HD, rotates, tiles>
          <<<s.num_pairs, block, static_cast<std::size_t>(shared), stream_of(ctx)>>>(in, gradients_of(a), s);
    };
    if (key_tiles <= 2) {
      launch(std::integral_constant<int, 2>{});
    } else if (key_tiles <= 4) {
      launch(std::integral_constant<int, 4>{});
    } else {
      launch(std::integral_constant<int, 8>{});
    }
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
