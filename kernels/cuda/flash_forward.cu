// A block a (128 queries, head): four warps of 32 queries, keys in tiles that start at multiples of their size, the
// last tile first. The next tile's keys and values are copied while one is worked on.
#include "kernels/cuda/flash.cuh"
#include "kernels/cuda/scratch.hpp"

namespace photon::cuda {
namespace {

using namespace flash;

constexpr int rows = 128;
constexpr int threads = 128;
constexpr int warp_rows = 32;

template <int Width>
constexpr int keys_a_tile = Width == 64 ? 128 : 64;
template <int Width>
constexpr int shared_bytes = (rows + 4 * keys_a_tile<Width>)*Width * 2;

// The softmax of 32 queries under way. A lane holds 4 of them: row 8 i + lane / 4 is its i-th.
struct Softmax {
  float largest[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};  // of the raw scores
  float total[4] = {0, 0, 0, 0};                                    // this lane's part

  // Makes scores probabilities (up to each row's factor) and scales `sum` to match.
  template <int Keys, int Columns>
  __device__ void step(mma::Sum<2, Keys>& scores, mma::Sum<2, Columns>& sum, float scale_log2) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& top = largest[2 * i + half];
        float here = -INFINITY;
#pragma unroll
        for (int j = 0; j < 2 * Keys; ++j) {
          here = fmaxf(here, fmaxf(scores[i][j][2 * half], scores[i][j][2 * half + 1]));
        }
        const float now = fmaxf(top, row_max(here));
        const float shift = now == -INFINITY ? 0.0F : now * scale_log2;  // no key seen yet
        const float keep = mma::exp2_fast(top * scale_log2 - shift);
        top = now;
        float added = 0;
#pragma unroll
        for (int j = 0; j < 2 * Keys; ++j) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            scores[i][j][e] = mma::exp2_fast(fmaf(scores[i][j][e], scale_log2, -shift));
            added += scores[i][j][e];
          }
        }
        total[2 * i + half] = fmaf(total[2 * i + half], keep, added);
#pragma unroll
        for (int j = 0; j < 2 * Columns; ++j) {
          sum[i][j][2 * half] *= keep;
          sum[i][j][2 * half + 1] *= keep;
        }
      }
    }
  }
};

template <int Keys>
__device__ void mask(mma::Sum<2, Keys>& scores, int first_row, int first_key, const Sizes& s) {
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2 * Keys; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int query = first_row + 16 * i + lane / 4 + (e / 2) * 8;
        const int key = first_key + 8 * j + lane % 4 * 2 + e % 2;
        if (!sees(query, key, s)) scores[i][j][e] = -INFINITY;
      }
    }
  }
}

// sum += probabilities values: the scores' registers are the left operand as they lie.
template <int Keys, int Width>
__device__ void add_values(mma::Sum<2, Width / 16>& sum, const mma::Sum<2, Keys>& p, mma::Tile<Width> values) {
  const mma::Lane lane = mma::plain_lane();
#pragma unroll
  for (int k = 0; k < Keys; ++k) {
    mma::Fragment a[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      a[i][0] = mma::pack(p[i][2 * k][0], p[i][2 * k][1]);
      a[i][1] = mma::pack(p[i][2 * k][2], p[i][2 * k][3]);
      a[i][2] = mma::pack(p[i][2 * k + 1][0], p[i][2 * k + 1][1]);
      a[i][3] = mma::pack(p[i][2 * k + 1][2], p[i][2 * k + 1][3]);
    }
#pragma unroll
    for (int j = 0; j < Width / 16; ++j) {
      mma::Fragment b;
      mma::load_matrix_transposed(b, values.at(16 * k + lane.row, 2 * j + lane.chunk));
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        mma::multiply_add(sum[i][2 * j], a[i], b[0], b[1]);
        mma::multiply_add(sum[i][2 * j + 1], a[i], b[2], b[3]);
      }
    }
  }
}

template <int Width>
__global__ void __launch_bounds__(threads, 2)
    forward_kernel(Heads<const bf16> q, Heads<const bf16> k, Heads<const bf16> v, Heads<bf16> out,
                   float* __restrict__ lse, Sizes s) {
  constexpr int keys = keys_a_tile<Width>;
  constexpr int tile_bytes = keys * Width * 2;
  extern __shared__ __align__(128) unsigned char shared[];
  const mma::Tile<Width> queries{mma::shared_address(shared)};
  const unsigned key_tiles = queries.base + rows * Width * 2;
  const unsigned value_tiles = key_tiles + 2 * tile_bytes;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int warp_row = static_cast<int>(threadIdx.x) / warp_width * warp_rows;
  // The last queries see the most keys: they go first.
  const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * rows;
  const std::int64_t h = blockIdx.y;
  const std::int64_t b = blockIdx.z;
  const bf16* const key_rows = k.at(b, h / s.heads_a_key);
  const bf16* const value_rows = v.at(b, h / s.heads_a_key);
  const int own_first = first + warp_row;
  const int own_last = own_first + warp_rows - 1;
  const int first_tile = s.window > 0 ? max(0, first - s.window + 1) / keys : 0;
  const int last_tile = (min(first + rows, s.positions) - 1) / keys;
  const auto load = [&](int tile) {
    const unsigned stage = (tile & 1) * tile_bytes;
    mma::load_rows<keys, Width, threads>({key_tiles + stage}, key_rows, k.position, tile * keys, s.positions);
    mma::load_rows<keys, Width, threads>({value_tiles + stage}, value_rows, v.position, tile * keys, s.positions);
  };
  mma::load_rows<rows, Width, threads>(queries, q.at(b, h), q.position, first, s.positions);
  load(last_tile);
  mma::commit_copies();

  Softmax softmax;
  mma::Sum<2, Width / 16> sum;
  mma::clear<2, Width / 16>(sum);
  for (int tile = last_tile; tile >= first_tile; --tile) {
    mma::wait_copies<0>();
    __syncthreads();  // this tile is there, and nobody reads the one before any more
    if (tile > first_tile) load(tile - 1);
    mma::commit_copies();
    const int first_key = tile * keys;
    if (none_seen(own_first, own_last, first_key, first_key + keys - 1, s)) continue;
    const unsigned stage = (tile & 1) * tile_bytes;
    mma::Sum<2, keys / 16> scores;
    mma::clear<2, keys / 16>(scores);
    mma::add_product<2, keys / 16, Width, mma::Lies::along, mma::Lies::along>(scores, queries, warp_row,
                                                                              mma::Tile<Width>{key_tiles + stage}, 0);
    if (!all_seen(own_first, own_last, first_key, first_key + keys - 1, s)) {
      mask<keys / 16>(scores, own_first, first_key, s);
    }
    softmax.step<keys / 16, Width / 16>(scores, sum, s.scale_log2);
    add_values<keys / 16, Width>(sum, scores, mma::Tile<Width>{value_tiles + stage});
  }

  // The queries' own part of shared memory takes the result, so that it is written in whole rows.
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = 16 * i + 8 * half + lane / 4;
      const int r = 2 * i + half;
      const float total = row_sum(softmax.total[r]);
      const float factor = 1.0F / total;
#pragma unroll
      for (int j = 0; j < Width / 8; ++j) {
        mma::store_word(queries.at(warp_row + row, j) + lane % 4 * 4,
                        mma::pack(sum[i][j][2 * half] * factor, sum[i][j][2 * half + 1] * factor));
      }
      if (lse != nullptr && lane % 4 == 0 && own_first + row < s.positions) {
        lse[(b * gridDim.y + h) * s.positions + own_first + row] =
            (softmax.largest[r] * s.scale_log2 + log2f(total)) * static_cast<float>(ln2);
      }
    }
  }
  __syncwarp();
  constexpr int chunks = mma::Tile<Width>::chunks;
  bf16* const results = out.at(b, h);
#pragma unroll
  for (int step = 0; step < warp_rows * chunks / warp_width; ++step) {
    const int row = (step * warp_width + lane) / chunks;
    const int chunk = lane % chunks;
    if (own_first + row < s.positions) {
      const unsigned from = queries.at(warp_row + row, chunk) - queries.base;
      store_pack(results + (std::int64_t{own_first} + row) * out.position + chunk * mma::chunk_elements,
                 load_pack<mma::chunk_elements>(reinterpret_cast<const bf16*>(shared + from)));
    }
  }
}

}  // namespace

bool flash_fits(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
                const ConstTensorView& out) {
  return q.dtype() == DType::bf16 && flash_width(q.size(3)) && q.size(1) < (std::int64_t{1} << 30) &&
         all_pack(q, k, v, out);
}

void flash_forward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
                   std::int64_t window, const TensorView& out, const TensorView& lse) {
  const dim3 grid(static_cast<unsigned>(ceil_div(q.size(1), rows)), static_cast<unsigned>(q.size(2)),
                  static_cast<unsigned>(q.size(0)));
  const Sizes s = sizes_of(q, k, window);
  const auto launch = [&]<int Width>(std::integral_constant<int, Width>) {
    if (forward_on_hopper<Width>(ctx, q, k, v, s, out, lse)) return;
    allow_shared_memory(forward_kernel<Width>, shared_bytes<Width>);
    forward_kernel<Width><<<grid, threads, shared_bytes<Width>, stream_of(ctx)>>>(
        heads_of(q), heads_of(k), heads_of(v), heads_of(out), optional_data<float>(lse), s);
    PHOTON_CUDA_CHECK(cudaGetLastError());
  };
  if (q.size(3) == 64) {
    launch(std::integral_constant<int, 64>{});
  } else {
    launch(std::integral_constant<int, 128>{});
  }
}

}  // namespace photon::cuda
