// The backward pass on Hopper's matrix units. Two warpgroups, each with 64 of the block's 128 keys. Scores are computed
// transposed, [keys, queries], so that probabilities and d loss / d score are the left operands of dv and dk as they
// lie in registers; only d loss / d score goes to shared memory too, for dq, of which each warpgroup computes half of
// the columns a step later, when the other warpgroup's part has long been there. Products are queued before the
// arithmetic that they run beside.
#include "kernels/cuda/flash_backward_hopper.cuh"

namespace photon::cuda::flash {
namespace {

using namespace hopper;
using mma::Lies;

#if PHOTON_HAVE_WGMMA

__device__ inline void join_consumers() {
  asm volatile("bar.sync 1, %0;" ::"n"(num_consumers) : "memory");
}
__device__ inline void arrive_warp(unsigned barrier) {
  __syncwarp();
  if (threadIdx.x % warp_width == 0) tma::arrive(barrier);
}
// Of two queries side by side.
__device__ inline void load_statistics(unsigned from, float (&lse)[2], float (&delta)[2]) {
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(lse[0]), "=f"(delta[0]), "=f"(lse[1]), "=f"(delta[1])
               : "r"(from));
}

// A warpgroup's [64, Width] result to rows first .. + 63, by way of its own rows of panels in shared memory.
template <int Width, int Rows>
__device__ void write_rows(unsigned char* shared, int tile, int group, const float (&x)[Width / 8][4], float factor,
                           bf16* __restrict__ to, std::int64_t stride, int first, const Sizes& s) {
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int warp_row = group * own_keys + static_cast<int>(threadIdx.x) / warp_width % 4 * 16;
  const unsigned base = mma::shared_address(shared);
#pragma unroll
  for (int j = 0; j < Width / 8; ++j) {
    const mma::Tile<wgmma::panel> panel{base + tile + j / 8 * Shared<Width, Rows>::key_panel};
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
    const mma::Tile<wgmma::panel> panel{base + tile + chunk / 8 * Shared<Width, Rows>::key_panel};
    store_pack(
        to + (std::int64_t{first} + row) * stride + chunk * mma::chunk_elements,
        load_pack<mma::chunk_elements>(reinterpret_cast<const bf16*>(shared + (panel.at(row, chunk % 8) - base))));
  }
}

template <int Width, int Rows>
__device__ void consume(const Backward& a, unsigned char* shared, unsigned base, const Piece<Rows>& work) {
  using At = Shared<Width, Rows>;
  const Barriers<Width, Rows> barriers{base};
  const Sizes& s = a.s;
  const int num_steps = work.a_head * s.heads_a_key;
  const int group = __shfl_sync(full_warp, static_cast<int>(threadIdx.x) / wgmma::warpgroup, 0);
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int warp = static_cast<int>(threadIdx.x) / warp_width;
  const int warp_row = warp % 4 * 16;  // in the warpgroup's 64 keys
  const int first_own_key = work.first_key + group * own_keys;
  const std::uint64_t own_k = wgmma::descriptor(base + At::k + group * own_keys * wgmma::panel_bytes);
  const std::uint64_t own_v = wgmma::descriptor(base + At::v + group * own_keys * wgmma::panel_bytes);
  // Of dq either half of the columns, a whole panel of the keys or half of one, or half of the queries.
  constexpr bool by_columns = Rows == 64;
  const std::uint64_t columns = wgmma::descriptor(base + At::k +
                                                  (!by_columns    ? 0
                                                   : Width == 128 ? group * At::key_panel
                                                                  : group * wgmma::panel_bytes / 2));

  float dk[Width / 8][4] = {};
  float dv[Width / 8][4] = {};

  // to [own keys, queries] = own rows of a tile of keys times a tile of queries.
  const auto queue_scores = [&](float(&to)[Rows / 8][4], std::uint64_t own, int tile) {
    const std::uint64_t queries = wgmma::descriptor(base + tile);
    wgmma::begin();
#pragma unroll
    for (int d = 0; d < Width / 16; ++d) {
      wgmma::multiply<Lies::along, Lies::along>(to, wgmma::advance(own, d / 4 * At::key_panel + d % 4 * 32),
                                                wgmma::advance(queries, d / 4 * At::query_panel + d % 4 * 32),
                                                d > 0 ? 1 : 0);
    }
    wgmma::commit();
  };
  // sum [own keys, Width] += x [own keys, queries] times a tile of queries.
  const auto queue_sum = [&](float(&sum)[Width / 8][4], const mma::Fragment(&x)[Rows / 16], int tile) {
    const std::uint64_t queries = wgmma::descriptor(base + tile, At::query_panel);
    wgmma::begin();
#pragma unroll
    for (int k = 0; k < Rows / 16; ++k) {
      wgmma::multiply<Lies::crossed>(sum, x[k], wgmma::advance(queries, k * 16 * wgmma::panel_bytes), 1);
    }
    wgmma::commit();
  };
  const auto queue_dq = [&](float(&dq)[Rows * Width / 1024][4], int stage) {
    const std::uint64_t ds =
        wgmma::descriptor(base + At::ds + stage * At::ds_tile + (by_columns ? 0 : group * At::key_panel));
    wgmma::begin();
#pragma unroll
    for (int k = 0; k < keys / 16; ++k) {
      wgmma::multiply<Lies::crossed, Lies::crossed>(dq, wgmma::advance(ds, k * 16 * wgmma::panel_bytes),
                                                    wgmma::advance(columns, k * 16 * wgmma::panel_bytes),
                                                    k > 0 ? 1 : 0);
    }
    wgmma::commit();
  };
  const auto hand_on_dq = [&](const float(&dq)[Rows * Width / 1024][4], int step) {
    const int stage = step % 2;
    if (step >= 2) tma::wait(barriers.dq_read(stage), (step / 2 - 1) & 1);
    const unsigned to = base + At::dq + stage * At::dq_tile + warp * At::dq_part + lane * 16;
#pragma unroll
    for (int j = 0; j < Rows * Width / 1024; ++j) {
      asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to + j * warp_width * 16), "f"(dq[j][0]),
                   "f"(dq[j][1]), "f"(dq[j][2]), "f"(dq[j][3])
                   : "memory");
    }
    wgmma::publish();
    arrive_warp(barriers.dq(stage));
  };
  tma::wait(barriers.k(), 0);
  tma::wait(barriers.v(), 0);
  Walk<Rows> walk(work);
  for (int step = 0; step < num_steps; ++step, walk.next()) {
    const int stage = step % stages;
    const int parity = step / stages & 1;
    const int first_row = walk.tile * Rows;
    const unsigned statistics = base + At::statistics + stage * At::statistics_tile + lane % 4 * 2 * 8;
    float p[Rows / 8][4];
    float dp[Rows / 8][4];
    {
      // The first step's product is of nothing, and nobody looks at it: a fixed pipeline is what the compiler
      // understands.
      float dq[Rows * Width / 1024][4];
      if (step > 0) tma::wait(barriers.ds(stage ^ 1), (step - 1) / 2 & 1);
      queue_dq(dq, stage ^ 1);
      tma::wait(barriers.q(stage), parity);
      queue_scores(p, own_k, At::q + stage * At::query_tile);
      wgmma::wait<1>();
      wgmma::settle(dq);
      if (step > 0) {
        arrive_warp(barriers.ds_read(stage ^ 1));
        hand_on_dq(dq, step - 1);
      }
    }
    tma::wait(barriers.dout(stage), parity);
    queue_scores(dp, own_v, At::dout + stage * At::query_tile);
    wgmma::wait<1>();
    wgmma::settle(p);
    if (!all_seen(first_row, first_row + Rows - 1, first_own_key, first_own_key + own_keys - 1, s)) {
#pragma unroll
      for (int j = 0; j < Rows / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int query = first_row + 8 * j + lane % 4 * 2 + e % 2;
          const int key = first_own_key + warp_row + lane / 4 + e / 2 * 8;
          if (!sees(query, key, s)) p[j][e] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int j = 0; j < Rows / 8; ++j) {
      float lse[2];
      float delta[2];
      load_statistics(statistics + j * 64, lse, delta);
#pragma unroll
      for (int e = 0; e < 4; ++e) p[j][e] = mma::exp2_fast(fmaf(p[j][e], s.scale_log2, -lse[e % 2]));
    }
    mma::Fragment probabilities[Rows / 16];
    wgmma::to_fragments(p, probabilities);
    queue_sum(dv, probabilities, At::dout + stage * At::query_tile);
    wgmma::wait<1>();
    wgmma::settle(dp);
#pragma unroll
    for (int j = 0; j < Rows / 8; ++j) {
      float lse[2];
      float delta[2];
      load_statistics(statistics + j * 64, lse, delta);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        // From the rounded probabilities, which lie in half as many registers.
        const unsigned both = probabilities[j / 2][j % 2 * 2 + e / 2];
        dp[j][e] = __uint_as_float(e % 2 == 0 ? both << 16 : both & 0xffff0000U) * (dp[j][e] - delta[e % 2]);
      }
    }
    mma::Fragment slopes[Rows / 16];
    wgmma::to_fragments(dp, slopes);
    if (step >= 2) tma::wait(barriers.ds_read(stage), (step / 2 - 1) & 1);
#pragma unroll
    for (int j = 0; j < Rows / 8; ++j) {
      const mma::Tile<wgmma::panel> ds_panel{base + At::ds + stage * At::ds_tile + j / 8 * At::key_panel};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        mma::store_word(ds_panel.at(group * own_keys + warp_row + 8 * half + lane / 4, j % 8) + lane % 4 * 4,
                        slopes[j / 2][j % 2 * 2 + half]);
      }
    }
    wgmma::publish();
    arrive_warp(barriers.ds(stage));
    queue_sum(dk, slopes, At::q + stage * At::query_tile);
    wgmma::wait<0>();
    wgmma::settle(dv);
    wgmma::settle(dk);
    __syncwarp();
    if (lane == 0) {
      tma::arrive(barriers.q_read(stage));
      tma::arrive(barriers.dout_read(stage));
    }
  }
  const int last = num_steps - 1;
  float dq[Rows * Width / 1024][4];
  tma::wait(barriers.ds(last % 2), last / 2 & 1);
  queue_dq(dq, last % 2);
  wgmma::wait<0>();
  wgmma::settle(dq);
  hand_on_dq(dq, last);
  join_consumers();  // nobody multiplies any more
  write_rows<Width, Rows>(shared, At::k, group, dk, s.scale, a.dk.at(work.b, work.kh), a.dk.position, work.first_key,
                          s);
  write_rows<Width, Rows>(shared, At::v, group, dv, 1.0F, a.dv.at(work.b, work.kh), a.dv.position, work.first_key, s);
}

#endif

template <int Width, int Rows>
__global__ void __launch_bounds__(PHOTON_WGMMA_THREADS(threads), 1)
    hopper_backward_kernel(const __grid_constant__ Maps maps, const __grid_constant__ Backward a, int num_streams,
                           int heads_together) {
#if PHOTON_HAVE_WGMMA
  using At = Shared<Width, Rows>;
  extern __shared__ __align__(alignment) unsigned char shared[];
  const unsigned base = mma::shared_address(shared);
  if (base % alignment != 0) __trap();
  int* const ticket = reinterpret_cast<int*>(shared + At::ticket);
  if (threadIdx.x == 0) {
    *ticket = atomicAdd(a.relay.ticket, 1);
    Barriers<Width, Rows>{base}.make();
  }
  __syncthreads();
  const Piece<Rows> work(*ticket, num_streams, heads_together, a.num_key_heads, a.s);
  if (threadIdx.x >= num_consumers) {
    wgmma::give_registers<24>();
    const int warp = __shfl_sync(full_warp, (static_cast<int>(threadIdx.x) - num_consumers) / warp_width, 0);
    if (warp < carriers) {
      carry<Width, Rows>(a, base, work, warp);
    } else if (threadIdx.x % warp_width == 0) {
      produce<Width, Rows>(maps, a, base, work);
    }
  } else {
    wgmma::take_registers<240>();
    consume<Width, Rows>(a, shared, base, work);
  }
#endif
}

// Key heads whose blocks take turns: many, so that the blocks of one head, which wait for each other's sums, start at
// different times; few, so that what they work on stays in the cache.
int heads_together(std::int64_t positions) {
  return positions > 8192 ? 4 : 16;
}

}  // namespace

template <int Width>
bool backward_on_hopper(const Context& ctx, const Backward& a, const ConstTensorView& q, const ConstTensorView& k,
                        const ConstTensorView& v, const ConstTensorView& dout) {
  constexpr int rows = static_cast<int>(flash_query_tile(Width));
  const auto kernel = hopper_backward_kernel<Width, rows>;
  constexpr int bytes = Shared<Width, rows>::bytes;
  if (!wgmma::available(kernel, threads)) return false;
  const std::int64_t num_streams = k.size(0) * k.size(2);
  const auto num_blocks = static_cast<unsigned>(num_streams * ceil_div(k.size(1), keys));
  const Maps maps{head_map(q, rows), head_map(k, keys), head_map(v, keys), head_map(dout, rows)};
  allow_shared_memory(kernel, bytes);
  kernel<<<num_blocks, threads, bytes, stream_of(ctx)>>>(maps, a, static_cast<int>(num_streams),
                                                         heads_together(k.size(1)));
  PHOTON_CUDA_CHECK(cudaGetLastError());
  return true;
}

template bool backward_on_hopper<64>(const Context&, const Backward&, const ConstTensorView&, const ConstTensorView&,
                                     const ConstTensorView&, const ConstTensorView&);
template bool backward_on_hopper<128>(const Context&, const Backward&, const ConstTensorView&, const ConstTensorView&,
                                      const ConstTensorView&, const ConstTensorView&);

}  // namespace photon::cuda::flash
