// The forward pass on Hopper's matrix units: a block a (128 queries, head). One warp queues copies of key and value
// tiles; two warpgroups of 64 queries each take turns at the scores, so that the softmax of one runs beside the
// products of the other.
#include "kernels/cuda/flash.cuh"
#include "kernels/cuda/tma.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace photon::cuda::flash {
namespace {

using mma::Lies;

constexpr int num_groups = 2;
constexpr int own_rows = 64;  // a warpgroup's
constexpr int rows = num_groups * own_rows;
constexpr int keys = 128;
constexpr int stages = 2;
constexpr int threads = num_groups * wgmma::warpgroup + warp_width;
constexpr int alignment = 1024;

template <int Width>
struct Shared {
  static constexpr int panels = Width / wgmma::panel;
  static constexpr int row_panel = rows * wgmma::panel_bytes;
  static constexpr int key_panel = keys * wgmma::panel_bytes;
  static constexpr int tile = panels * key_panel;
  static constexpr int q = 0;
  static constexpr int k = q + panels * row_panel;
  static constexpr int v = k + stages * tile;
  static constexpr int barriers = v + stages * tile;
  static constexpr int bytes = barriers + (1 + 4 * stages) * 8 + alignment;

  // Barriers: the queries are there; keys and values are there, and have been read.
  __device__ static unsigned queries_ready(unsigned base) { return base + barriers; }
  __device__ static unsigned ready(unsigned base, int which, int stage) {
    return base + barriers + 8 * (1 + which * stages + stage);
  }
  __device__ static unsigned free(unsigned base, int which, int stage) { return ready(base, which + 2, stage); }
};

#if PHOTON_HAVE_WGMMA

// Warpgroups take turns by the hardware's named barriers 1 and 2.
__device__ inline void wait_turn(int group) {
  asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "n"(num_groups * wgmma::warpgroup) : "memory");
}
__device__ inline void give_turn(int group) {
  asm volatile("bar.arrive %0, %1;" ::"r"(1 + group), "n"(num_groups * wgmma::warpgroup) : "memory");
}

// The softmax of 64 queries under way; a lane holds rows lane / 4 and lane / 4 + 8 of its warp's 16.
template <int Keys, int Columns>
__device__ void softmax_step(float (&scores)[Keys][4], float (&sum)[Columns][4], float (&largest)[2], float (&total)[2],
                             float scale_log2) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float here = -INFINITY;
#pragma unroll
    for (int j = 0; j < Keys; ++j) here = fmaxf(here, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
    const float now = fmaxf(largest[half], row_max(here));
    const float shift = now == -INFINITY ? 0.0F : now * scale_log2;  // no key seen yet
    const float keep = mma::exp2_fast(largest[half] * scale_log2 - shift);
    largest[half] = now;
    float added = 0;
#pragma unroll
    for (int j = 0; j < Keys; ++j) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        scores[j][e] = mma::exp2_fast(fmaf(scores[j][e], scale_log2, -shift));
        added += scores[j][e];
      }
    }
    total[half] = fmaf(total[half], keep, added);
#pragma unroll
    for (int j = 0; j < Columns; ++j) {
      sum[j][2 * half] *= keep;
      sum[j][2 * half + 1] *= keep;
    }
  }
}

template <int Width>
__device__ void produce(const CUtensorMap& q, const CUtensorMap& k, const CUtensorMap& v, unsigned base, int first,
                        int first_tile, int last_tile, const Sizes& s) {
  using At = Shared<Width>;
  const int h = static_cast<int>(blockIdx.y);
  const int b = static_cast<int>(blockIdx.z);
  const int kh = h / s.heads_a_key;
  tma::expect(At::queries_ready(base), At::panels * At::row_panel);
  for (int p = 0; p < At::panels; ++p) {
    tma::copy(base + At::q + p * At::row_panel, q, p * wgmma::panel, h, first, b, At::queries_ready(base));
  }
  for (int i = 0; i <= last_tile - first_tile; ++i) {
    const int stage = i % stages;
    for (int which = 0; which < 2; ++which) {  // keys, then values
      if (i >= stages) tma::wait(At::free(base, which, stage), (i / stages - 1) & 1);
      const unsigned ready = At::ready(base, which, stage);
      tma::expect(ready, At::tile);
      const unsigned to = base + (which == 0 ? At::k : At::v) + stage * At::tile;
      for (int p = 0; p < At::panels; ++p) {
        tma::copy(to + p * At::key_panel, which == 0 ? k : v, p * wgmma::panel, kh, (last_tile - i) * keys, b, ready);
      }
    }
  }
}

template <int Width>
__device__ void consume(unsigned char* shared, unsigned base, Heads<bf16> out, float* __restrict__ lse, int first,
                        int first_tile, int last_tile, const Sizes& s) {
  using At = Shared<Width>;
  const int group = __shfl_sync(full_warp, static_cast<int>(threadIdx.x) / wgmma::warpgroup, 0);
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int warp_row = group * own_rows + static_cast<int>(threadIdx.x) / warp_width % 4 * 16;
  const int own_first = first + group * own_rows;
  float largest[2] = {-INFINITY, -INFINITY};
  float total[2] = {0, 0};
  float sum[Width / 8][4] = {};
  tma::wait(At::queries_ready(base), 0);
  if (group == 1) give_turn(0);
  for (int i = 0; i <= last_tile - first_tile; ++i) {
    const int stage = i % stages;
    const int parity = i / stages & 1;
    const int first_key = (last_tile - i) * keys;
    float scores[keys / 8][4];
    tma::wait(At::ready(base, 0, stage), parity);
    wait_turn(group);
    wgmma::begin();
#pragma unroll
    for (int d = 0; d < Width / 16; ++d) {
      wgmma::multiply<Lies::along, Lies::along>(
          scores,
          wgmma::descriptor(base + At::q + d / 4 * At::row_panel + group * own_rows * wgmma::panel_bytes + d % 4 * 32),
          wgmma::descriptor(base + At::k + stage * At::tile + d / 4 * At::key_panel + d % 4 * 32), d > 0 ? 1 : 0);
    }
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::settle(scores);
    give_turn(1 - group);
    if (lane == 0) tma::arrive(At::free(base, 0, stage));
    if (!all_seen(own_first, own_first + own_rows - 1, first_key, first_key + keys - 1, s)) {
#pragma unroll
      for (int j = 0; j < keys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int query = first + warp_row + lane / 4 + e / 2 * 8;
          const int key = first_key + 8 * j + lane % 4 * 2 + e % 2;
          if (!sees(query, key, s)) scores[j][e] = -INFINITY;
        }
      }
    }
    softmax_step(scores, sum, largest, total, s.scale_log2);
    mma::Fragment probabilities[keys / 16];
    wgmma::to_fragments(scores, probabilities);
    tma::wait(At::ready(base, 1, stage), parity);
    wgmma::settle(sum);
    wgmma::begin();
#pragma unroll
    for (int k = 0; k < keys / 16; ++k) {
      wgmma::multiply<Lies::crossed>(
          sum, probabilities[k],
          wgmma::descriptor(base + At::v + stage * At::tile + k * 16 * wgmma::panel_bytes, At::key_panel), 1);
    }
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::settle(sum);
    if (lane == 0) tma::arrive(At::free(base, 1, stage));
  }
  if (group == 0) wait_turn(0);  // the other's last turn, so that no barrier is left half full

  // The queries' own rows of shared memory take the result, so that it is written in whole rows.
  const std::int64_t h = blockIdx.y;
  const std::int64_t b = blockIdx.z;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + 8 * half + lane / 4;
    const float all = row_sum(total[half]);
    const float factor = 1.0F / all;
#pragma unroll
    for (int j = 0; j < Width / 8; ++j) {
      const mma::Tile<wgmma::panel> panel{base + At::q + j / 8 * At::row_panel};
      mma::store_word(panel.at(row, j % 8) + lane % 4 * 4,
                      mma::pack(sum[j][2 * half] * factor, sum[j][2 * half + 1] * factor));
    }
    if (lse != nullptr && lane % 4 == 0 && first + row < s.positions) {
      lse[(b * gridDim.y + h) * s.positions + first + row] =
          (largest[half] * s.scale_log2 + log2f(all)) * static_cast<float>(ln2);
    }
  }
  __syncwarp();
  constexpr int chunks = Width / mma::chunk_elements;
  bf16* const results = out.at(b, h);
#pragma unroll
  for (int i = lane; i < 16 * chunks; i += warp_width) {
    const int row = warp_row + i / chunks;
    const int chunk = i % chunks;
    if (first + row >= s.positions) continue;
    const mma::Tile<wgmma::panel> panel{base + At::q + chunk / 8 * At::row_panel};
    store_pack(
        results + (std::int64_t{first} + row) * out.position + chunk * mma::chunk_elements,
        load_pack<mma::chunk_elements>(reinterpret_cast<const bf16*>(shared + (panel.at(row, chunk % 8) - base))));
  }
}

#endif

template <int Width>
__global__ void __launch_bounds__(PHOTON_WGMMA_THREADS(threads), 1)
    hopper_forward_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                          const __grid_constant__ CUtensorMap v, Heads<bf16> out, float* __restrict__ lse, Sizes s) {
#if PHOTON_HAVE_WGMMA
  using At = Shared<Width>;
  extern __shared__ unsigned char unaligned[];
  unsigned char* const shared = unaligned + (alignment - mma::shared_address(unaligned) % alignment) % alignment;
  const unsigned base = mma::shared_address(shared);
  if (threadIdx.x == 0) {
    tma::make_barrier(At::queries_ready(base), 1);
    for (int stage = 0; stage < stages; ++stage) {
      for (int which = 0; which < 2; ++which) {
        tma::make_barrier(At::ready(base, which, stage), 1);
        tma::make_barrier(At::free(base, which, stage), num_groups * wgmma::warpgroup / warp_width);
      }
    }
    tma::publish_barriers();
  }
  __syncthreads();
  // The last queries see the most keys: they go first.
  const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * rows;
  const int first_tile = s.window > 0 ? max(0, first - s.window + 1) / keys : 0;
  const int last_tile = (min(first + rows, s.positions) - 1) / keys;
  if (threadIdx.x >= num_groups * wgmma::warpgroup) {
    if (threadIdx.x % warp_width == 0) produce<Width>(q, k, v, base, first, first_tile, last_tile, s);
  } else {
    consume<Width>(shared, base, out, lse, first, first_tile, last_tile, s);
  }
#endif
}

}  // namespace

template <int Width>
bool forward_on_hopper(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
                       const Sizes& s, const TensorView& out, const TensorView& lse) {
  if (!wgmma::available(hopper_forward_kernel<Width>, threads)) return false;
  const dim3 grid(static_cast<unsigned>(ceil_div(q.size(1), rows)), static_cast<unsigned>(q.size(2)),
                  static_cast<unsigned>(q.size(0)));
  allow_shared_memory(hopper_forward_kernel<Width>, Shared<Width>::bytes);
  hopper_forward_kernel<Width><<<grid, threads, Shared<Width>::bytes, stream_of(ctx)>>>(
      head_map(q, rows), head_map(k, keys), head_map(v, keys), heads_of(out), optional_data<float>(lse), s);
  PHOTON_CUDA_CHECK(cudaGetLastError());
  return true;
}

template bool forward_on_hopper<64>(const Context&, const ConstTensorView&, const ConstTensorView&,
                                    const ConstTensorView&, const Sizes&, const TensorView&, const TensorView&);
template bool forward_on_hopper<128>(const Context&, const ConstTensorView&, const ConstTensorView&,
                                     const ConstTensorView&, const Sizes&, const TensorView&, const TensorView&);

}  // namespace photon::cuda::flash
