// The backward pass on Hopper's matrix units. Two warpgroups, each with 64 of the block's 128 keys. Scores are computed
// transposed, [keys, queries], so that probabilities and d loss / d score are the left operands of dv and dk as they
// lie in registers; only d loss / d score goes to shared memory too, for dq, of which each warpgroup computes half of
// the columns. Products run beside the arithmetic until their results are needed.
#include "kernels/cuda/flash_relay.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace photon::cuda::flash {
namespace {

using mma::Lies;

constexpr int threads = backward_threads;
constexpr int keys = backward_keys;
constexpr int own_keys = keys / 2;  // a warpgroup's
constexpr int rows = backward_rows;
constexpr int alignment = 1024;

template <int Width>
struct Shared {
  static constexpr int panels = Width / wgmma::panel;
  static constexpr int key_panel = keys * wgmma::panel_bytes;
  static constexpr int query_panel = rows * wgmma::panel_bytes;
  static constexpr int k = 0;
  static constexpr int v = k + panels * key_panel;
  static constexpr int q = v + panels * key_panel;            // two stages
  static constexpr int dout = q + 2 * panels * query_panel;   // two stages
  static constexpr int ds = dout + 2 * panels * query_panel;  // d loss / d score, [keys, queries]; two stages
  static constexpr int statistics = ds + 2 * key_panel;       // two stages
  static constexpr int statistics_tile = rows * sizeof(Statistics);
  static constexpr int ticket = statistics + 2 * statistics_tile;
  static constexpr int bytes = ticket + 16 + alignment;
};

#if PHOTON_HAVE_WGMMA

// A warpgroup's [64, Width] result to rows first .. + 63, by way of its own rows of panels in shared memory.
template <int Width>
__device__ void write_rows(unsigned char* shared, int tile, int group, const float (&x)[Width / 8][4], float factor,
                           bf16* __restrict__ to, std::int64_t stride, int first, const Sizes& s) {
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int warp_row = group * own_keys + static_cast<int>(threadIdx.x) / warp_width % 4 * 16;
  const unsigned base = mma::shared_address(shared);
#pragma unroll
  for (int j = 0; j < Width / 8; ++j) {
    const mma::Tile<wgmma::panel> panel{base + tile + j / 8 * Shared<Width>::key_panel};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      mma::store_word(panel.at(warp_row + 8 * half + lane / 4, j % 8) + lane % 4 * 4,
                      mma::pack(x[j][2 * half] * factor, x[j][2 * half + 1] * factor));
    }
  }
  __syncwarp();
  constexpr int chunks = Width / mma::chunk_elements;
#pragma unroll
  for (int i = lane; i < 16 * chunks; i += warp_width) {
    const int row = warp_row + i / chunks;
    const int chunk = i % chunks;
    if (first + row >= s.positions) continue;
    const mma::Tile<wgmma::panel> panel{base + tile + chunk / 8 * Shared<Width>::key_panel};
    store_pack(
        to + (std::int64_t{first} + row) * stride + chunk * mma::chunk_elements,
        load_pack<mma::chunk_elements>(reinterpret_cast<const bf16*>(shared + (panel.at(row, chunk % 8) - base))));
  }
}

template <int Width>
__device__ void backward(const Backward& a) {
  using At = Shared<Width>;
  extern __shared__ unsigned char unaligned[];
  unsigned char* const shared = unaligned + (alignment - mma::shared_address(unaligned) % alignment) % alignment;
  const unsigned base = mma::shared_address(shared);
  const Sizes& s = a.s;
  int* const ticket = reinterpret_cast<int*>(shared + At::ticket);
  if (threadIdx.x == 0) *ticket = atomicAdd(a.relay.ticket, 1);
  __syncthreads();
  const Work work(*ticket, a.num_key_heads, s);
  const int num_steps = work.a_head * s.heads_a_key;
  const int group = __shfl_sync(full_warp, static_cast<int>(threadIdx.x) / wgmma::warpgroup, 0);
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int warp_row = static_cast<int>(threadIdx.x) / warp_width % 4 * 16;  // in the warpgroup's 64

  const auto load = [&](int step) {
    const int h = work.head(step, s);
    const int first = work.tile(step) * rows;
    const int stage = step & 1;
    constexpr int tile = At::panels * At::query_panel;
    wgmma::load_panels<rows, Width, threads>(base + At::q + stage * tile, a.q.at(work.b, h), a.q.position, first,
                                             s.positions);
    wgmma::load_panels<rows, Width, threads>(base + At::dout + stage * tile, a.dout.at(work.b, h), a.dout.position,
                                             first, s.positions);
    if (threadIdx.x < rows) {
      const int row = first + static_cast<int>(threadIdx.x);
      const bool inside = row < s.positions;
      const Statistics* const from = a.statistics + (std::int64_t{work.b} * work.num_heads + h) * s.positions;
      mma::copy_pair(base + At::statistics + stage * At::statistics_tile + threadIdx.x * 8, inside ? from + row : from,
                     inside);
    }
  };
  wgmma::load_panels<keys, Width, threads>(base + At::k, a.k.at(work.b, work.kh), a.k.position, work.first_key,
                                           s.positions);
  wgmma::load_panels<keys, Width, threads>(base + At::v, a.v.at(work.b, work.kh), a.v.position, work.first_key,
                                           s.positions);
  load(0);
  mma::commit_copies();

  float dk[Width / 8][4] = {};
  float dv[Width / 8][4] = {};
  float dq[Width / 16][4] = {};  // of the tile before
  const int first_own_key = work.first_key + group * own_keys;
  // Half of the columns of the keys: whole panels, or half of one.
  const unsigned columns = base + At::k + (Width == 128 ? group * At::key_panel : group * wgmma::panel_bytes / 2);
  const auto multiply_queries = [&](int stage) {
#pragma unroll
    for (int k = 0; k < keys / 16; ++k) {
      wgmma::multiply<Lies::crossed, Lies::crossed>(
          dq, wgmma::descriptor(base + At::ds + stage * At::key_panel + k * 16 * wgmma::panel_bytes),
          wgmma::descriptor(columns + k * 16 * wgmma::panel_bytes), 1);
    }
    wgmma::commit();
  };
  // Writes dq of a step's tile, or hands it on; returns the turn that is to be passed once the stores have arrived.
  const auto hand_on = [&](int step) -> int* {
    const int h = work.head(step, s);
    const int tile = work.tile(step);
    if (work.last(tile, s)) {
      finish(dq, a.dq.at(work.b, h), a.dq.position, tile * rows + warp_row, group * (Width / 2), s);
      return nullptr;
    }
    const std::int64_t place = work.place(h, tile);
    pass_on(dq, a.relay.sums + place * (rows * Width / backward_warps));
    return a.relay.turns + place;
  };

  for (int step = 0; step < num_steps; ++step) {
    mma::wait_copies<0>();
    wgmma::publish();
    // This tile is there, d loss / d score of the one before too, and nobody reads the rest of that one any more.
    __syncthreads();
    if (step + 1 < num_steps) load(step + 1);
    mma::commit_copies();
    const int stage = step & 1;
    const int h = work.head(step, s);
    const int tile = work.tile(step);
    const int first_row = tile * rows;
    const unsigned queries = base + At::q + stage * At::panels * At::query_panel;
    const unsigned grads = base + At::dout + stage * At::panels * At::query_panel;
    const mma::Tile<wgmma::panel> ds_tile{base + At::ds + stage * At::key_panel};
    int* passed = nullptr;

    // The first step's product is of nothing, and nobody looks at it: a fixed pipeline is what the compiler
    // understands.
    wgmma::begin();
    multiply_queries(stage ^ 1);
    float p[rows / 8][4];
    float dp[rows / 8][4];
#pragma unroll
    for (int k = 0; k < Width / 16; ++k) {
      const unsigned own = group * own_keys * wgmma::panel_bytes + k / 4 * At::key_panel + k % 4 * 32;
      wgmma::multiply<Lies::along, Lies::along>(p, wgmma::descriptor(base + At::k + own),
                                                wgmma::descriptor(queries + k / 4 * At::query_panel + k % 4 * 32),
                                                k > 0 ? 1 : 0);
    }
    wgmma::commit();
#pragma unroll
    for (int k = 0; k < Width / 16; ++k) {
      const unsigned own = group * own_keys * wgmma::panel_bytes + k / 4 * At::key_panel + k % 4 * 32;
      wgmma::multiply<Lies::along, Lies::along>(dp, wgmma::descriptor(base + At::v + own),
                                                wgmma::descriptor(grads + k / 4 * At::query_panel + k % 4 * 32),
                                                k > 0 ? 1 : 0);
    }
    wgmma::commit();
    wgmma::wait<2>();
    wgmma::settle(dq);
    if (step > 0) passed = hand_on(step - 1);
    wgmma::wait<1>();
    wgmma::settle(p);
    const bool whole = all_seen(first_row, first_row + rows - 1, first_own_key, first_own_key + own_keys - 1, s);
    float delta[rows / 8][2];
#pragma unroll
    for (int j = 0; j < rows / 8; ++j) {
      float lse[2];
      asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                   : "=f"(lse[0]), "=f"(delta[j][0]), "=f"(lse[1]), "=f"(delta[j][1])
                   : "r"(base + At::statistics + stage * At::statistics_tile + (8 * j + lane % 4 * 2) * 8));
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int query = first_row + 8 * j + lane % 4 * 2 + e % 2;
        const int key = first_own_key + warp_row + lane / 4 + e / 2 * 8;
        const bool seen = whole || sees(query, key, s);
        p[j][e] = seen ? mma::exp2_fast(fmaf(p[j][e], s.scale_log2, -lse[e % 2])) : 0.0F;
      }
    }
    mma::Fragment probabilities[rows / 16];
    wgmma::to_fragments(p, probabilities);
    wgmma::wait<0>();
    wgmma::settle(dp);
    wgmma::begin();
#pragma unroll
    for (int k = 0; k < rows / 16; ++k) {
      wgmma::multiply<Lies::crossed>(dv, probabilities[k],
                                     wgmma::descriptor(grads + k * 16 * wgmma::panel_bytes, At::query_panel), 1);
    }
    wgmma::commit();
#pragma unroll
    for (int j = 0; j < rows / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) dp[j][e] = p[j][e] * (dp[j][e] - delta[j][e % 2]);
    }
    mma::Fragment slopes[rows / 16];
    wgmma::to_fragments(dp, slopes);
    wgmma::begin();
#pragma unroll
    for (int k = 0; k < rows / 16; ++k) {
      wgmma::multiply<Lies::crossed>(dk, slopes[k],
                                     wgmma::descriptor(queries + k * 16 * wgmma::panel_bytes, At::query_panel), 1);
    }
    wgmma::commit();
#pragma unroll
    for (int j = 0; j < rows / 8; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        mma::store_word(ds_tile.at(group * own_keys + warp_row + 8 * half + lane / 4, j) + lane % 4 * 4,
                        slopes[j / 2][j % 2 * 2 + half]);
      }
    }
    if (passed != nullptr) pass_turn(passed, work.rank(work.tile(step - 1), s) + 1);
    const int rank = work.rank(tile, s);
    const std::int64_t place = work.place(h, tile);
    if (rank > 0) wait_for_turn(a.relay.turns + place, rank);
    receive(dq, a.relay.sums + place * (rows * Width / backward_warps), rank == 0);
    wgmma::wait<0>();
    wgmma::settle(dv);
    wgmma::settle(dk);
  }
  wgmma::publish();
  __syncthreads();
  wgmma::begin();
  multiply_queries((num_steps - 1) & 1);
  wgmma::wait<0>();
  wgmma::settle(dq);
  if (int* const passed = hand_on(num_steps - 1)) {
    pass_turn(passed, work.rank(work.tile(num_steps - 1), s) + 1);
  }
  __syncthreads();
  write_rows<Width>(shared, At::k, group, dk, s.scale, a.dk.at(work.b, work.kh), a.dk.position, work.first_key, s);
  write_rows<Width>(shared, At::v, group, dv, 1.0F, a.dv.at(work.b, work.kh), a.dv.position, work.first_key, s);
}

#endif

template <int Width>
__global__ void __launch_bounds__(PHOTON_WGMMA_THREADS(threads), 1) hopper_backward_kernel(Backward a) {
#if PHOTON_HAVE_WGMMA
  backward<Width>(a);
#endif
}

}  // namespace

template <int Width>
bool backward_on_hopper(const Context& ctx, const Backward& a, std::int64_t num_blocks) {
  if (!wgmma::available(hopper_backward_kernel<Width>, threads)) return false;
  allow_shared_memory(hopper_backward_kernel<Width>, Shared<Width>::bytes);
  hopper_backward_kernel<Width>
      <<<static_cast<unsigned>(num_blocks), threads, Shared<Width>::bytes, stream_of(ctx)>>>(a);
  PHOTON_CUDA_CHECK(cudaGetLastError());
  return true;
}

template bool backward_on_hopper<64>(const Context&, const Backward&, std::int64_t);
template bool backward_on_hopper<128>(const Context&, const Backward&, std::int64_t);

}  // namespace photon::cuda::flash
