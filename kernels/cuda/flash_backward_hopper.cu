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

// Of queries 8 j + lane % 4 * 2 and the one beside it.
template <int N>
__device__ void load_statistics(unsigned from, float (&to)[N][2]) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(to[j][0]), "=f"(to[j][1]) : "r"(from + j * 32));
  }
}

// A warp's [16, Width] part of a result to rows first .. + 15, 64 columns at a time by way of 16 rows of a panel in
// shared memory that are the warp's own, at offset `own`.
template <int Width>
__device__ void write_rows(unsigned char* shared, unsigned base, int own, const float (&x)[Width / 8][4], float factor,
                           bf16* __restrict__ to, std::int64_t stride, int first, const Sizes& s) {
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const mma::Tile<wgmma::panel> panel{base + own};
  bf16* const rows = to + std::int64_t{first} * stride;
#pragma unroll
  for (int part = 0; part < Width / wgmma::panel; ++part) {
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* const pair = &x[part * 8 + j][2 * half];
        mma::store_word(panel.at(8 * half + lane / 4, j) + lane % 4 * 4, mma::pack(pair[0] * factor, pair[1] * factor));
      }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = i * 4 + lane / 8;
      const int chunk = lane % 8;
      if (first + row >= s.positions) continue;
      store_pack(rows + row * stride + part * wgmma::panel + chunk * mma::chunk_elements,
                 load_pack<mma::chunk_elements>(reinterpret_cast<const bf16*>(shared + (panel.at(row, chunk) - base))));
    }
  }
}

// A warp's rows first .. + 15 of dk, turned back.
template <int Width>
__device__ void turn_keys(float (&x)[Width / 8][4], int first, const Backward& a) {
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int j = 0; j < Width / 16; ++j) {
      const Angles by = angles_at<Width>(a, first + 8 * half + lane / 4, lane % 4 * 2 + 8 * j);
      turn_back(x[j][2 * half], x[j + Width / 16][2 * half], by.cosine.x, by.sine.x);
      turn_back(x[j][2 * half + 1], x[j + Width / 16][2 * half + 1], by.cosine.y, by.sine.y);
    }
  }
}

template <int Width, int Rows>
__device__ void consume(const Backward& a, const Pieces& pieces, unsigned char* shared, unsigned base) {
  using At = Shared<Width, Rows>;
  const Barriers<Width, Rows> barriers{base};
  const Sizes& s = a.s;
  const int group = __shfl_sync(full_warp, static_cast<int>(threadIdx.x) / wgmma::warpgroup, 0);
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int warp = static_cast<int>(threadIdx.x) / warp_width;
  const std::uint64_t own_k = wgmma::descriptor(base + At::k + group * own_keys * wgmma::panel_bytes);
  const std::uint64_t own_v = wgmma::descriptor(base + At::v + group * own_keys * wgmma::panel_bytes);
  // Of dq either half of the columns, a whole panel of the keys or half of one, or half of the queries.
  constexpr bool by_columns = Rows == 64;
  const std::uint64_t columns = wgmma::descriptor(base + At::k +
                                                  (!by_columns    ? 0
                                                   : Width == 128 ? group * At::key_panel
                                                                  : group * wgmma::panel_bytes / 2));

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
  const auto hand_on_ds = [&](const mma::Fragment(&slopes)[Rows / 16], int i) {
    const int stage = i % 2;
    if (i >= 2) tma::wait(barriers.ds_read(stage), (i / 2 - 1) & 1);
#pragma unroll
    for (int j = 0; j < Rows / 8; ++j) {
      const mma::Tile<wgmma::panel> panel{base + At::ds + stage * At::ds_tile + j / 8 * At::key_panel};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        mma::store_word(panel.at(warp * 16 + 8 * half + lane / 4, j % 8) + lane % 4 * 4,
                        slopes[j / 2][j % 2 * 2 + half]);
      }
    }
    wgmma::publish();
    arrive_warp(barriers.ds(stage));
  };
  const auto give_back = [&](int stage) {
    __syncwarp();
    if (lane == 0) {
      tma::arrive(barriers.q_read(stage));
      tma::arrive(barriers.dout_read(stage));
    }
  };
  const auto hand_on_dq = [&](const float(&dq)[Rows * Width / 1024][4], int i) {
    const int stage = i % 2;
    if (i >= 2) tma::wait(barriers.dq_read(stage), (i / 2 - 1) & 1);
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

  constexpr bool early = Rows == 64;  // where there are registers for it, statistics are loaded before they are needed
  int i = 0;                          // tiles of queries so far
  for (int n = 0;; ++n) {
    const int number = piece_number<Width, Rows>(base, n);
    if (number >= pieces.count) return;
    const Piece<Rows> work(number, pieces, a);
    const int first_own_key = work.first_key + group * own_keys;
    float dk[Width / 8][4] = {};
    float dv[Width / 8][4] = {};
    tma::wait(barriers.k(), n & 1);
    tma::wait(barriers.v(), n & 1);
    Walk<Rows> walk(work);
    const int begin = i;
    for (const int end = i + work.num_steps(s); i < end; ++i, walk.next()) {
      const int stage = i % stages;
      const int parity = i / stages & 1;
      const int first_row = walk.tile * Rows;
      const unsigned statistics = base + At::statistics + stage * At::statistics_tile + lane % 4 * 8;
      float p[Rows / 8][4];
      float dp[Rows / 8][4];
      float lse[Rows / 8][2];
      {
        // The first step's product is of nothing, and nobody looks at it: a fixed pipeline is what the compiler
        // understands.
        float dq[Rows * Width / 1024][4];
        if (i > begin) tma::wait(barriers.ds(stage ^ 1), (i - 1) / 2 & 1);
        queue_dq(dq, stage ^ 1);
        tma::wait(barriers.q(stage), parity);
        queue_scores(p, own_k, At::q + stage * At::query_tile);
        if constexpr (early) load_statistics(statistics, lse);
        wgmma::wait<1>();
        wgmma::settle(dq);
        if (i > begin) {
          arrive_warp(barriers.ds_read(stage ^ 1));
          hand_on_dq(dq, i - 1);
        }
      }
      tma::wait(barriers.dout(stage), parity);
      if (none_seen(first_row, first_row + Rows - 1, first_own_key, first_own_key + own_keys - 1, s)) {
        wgmma::wait<0>();
        wgmma::settle(p);
        const mma::Fragment nothing[Rows / 16] = {};
        hand_on_ds(nothing, i);
        give_back(stage);
        continue;
      }
      queue_scores(dp, own_v, At::dout + stage * At::query_tile);
      if constexpr (!early) load_statistics(statistics, lse);
      wgmma::wait<1>();
      wgmma::settle(p);
      if (!all_seen(first_row, first_row + Rows - 1, first_own_key, first_own_key + own_keys - 1, s)) {
#pragma unroll
        for (int j = 0; j < Rows / 8; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int query = first_row + 8 * j + lane % 4 * 2 + e % 2;
            const int key = first_own_key + warp % 4 * 16 + lane / 4 + e / 2 * 8;
            if (!sees(query, key, s)) p[j][e] = -INFINITY;
          }
        }
      }
#pragma unroll
      for (int j = 0; j < Rows / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) p[j][e] = mma::exp2_fast(fmaf(p[j][e], s.scale_log2, -lse[j][e % 2]));
      }
      mma::Fragment probabilities[Rows / 16];
      wgmma::to_fragments(p, probabilities);
      float delta[Rows / 8][2];
      load_statistics(statistics + Rows * 4, delta);
      queue_sum(dv, probabilities, At::dout + stage * At::query_tile);
      wgmma::wait<1>();
      wgmma::settle(dp);
#pragma unroll
      for (int j = 0; j < Rows / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          // From the rounded probabilities, which lie in half as many registers.
          const unsigned both = probabilities[j / 2][j % 2 * 2 + e / 2];
          dp[j][e] = __uint_as_float(e % 2 == 0 ? both << 16 : both & 0xffff0000U) * (dp[j][e] - delta[j][e % 2]);
        }
      }
      mma::Fragment slopes[Rows / 16];
      wgmma::to_fragments(dp, slopes);
      hand_on_ds(slopes, i);
      queue_sum(dk, slopes, At::q + stage * At::query_tile);
      wgmma::wait<0>();
      wgmma::settle(dv);
      wgmma::settle(dk);
      give_back(stage);
    }
    arrive_warp(barriers.v_read());
    float dq[Rows * Width / 1024][4];
    const int stage = (i - 1) % 2;
    tma::wait(barriers.ds(stage), (i - 1) / 2 & 1);
    queue_dq(dq, stage);
    wgmma::wait<0>();
    wgmma::settle(dq);
    arrive_warp(barriers.k_read());
    arrive_warp(barriers.ds_read(stage));
    hand_on_dq(dq, i - 1);
    // Own rows of the other tile of d loss / d score, once its product is done everywhere.
    if (i >= 2) tma::wait(barriers.ds_read(stage ^ 1), (i - 2) / 2 & 1);
    const int own = At::ds + (stage ^ 1) * At::ds_tile + warp * 16 * wgmma::panel_bytes;
    const int first = work.first_key + warp * 16;
    write_rows<Width>(shared, base, own, dv, 1.0F, a.dv.at(work.b, work.kh), a.dv.position, first, s);
    if (a.cosines != nullptr) turn_keys<Width>(dk, first, a);
    write_rows<Width>(shared, base, own, dk, s.scale, a.dk.at(work.b, work.kh), a.dk.position, first, s);
  }
}

#endif

template <int Width, int Rows>
__global__ void __launch_bounds__(PHOTON_WGMMA_THREADS(threads), 1)
    hopper_backward_kernel(const __grid_constant__ Maps maps, const __grid_constant__ Backward a, Pieces pieces) {
#if PHOTON_HAVE_WGMMA
  extern __shared__ __align__(alignment) unsigned char shared[];
  const unsigned base = mma::shared_address(shared);
  if (base % alignment != 0) __trap();
  if (threadIdx.x == 0) Barriers<Width, Rows>{base}.make();
  __syncthreads();
  const int warp = __shfl_sync(full_warp, (static_cast<int>(threadIdx.x) - num_consumers) / warp_width, 0);
  const int group = __shfl_sync(full_warp, static_cast<int>(threadIdx.x) / wgmma::warpgroup, 0);
  if (group == num_groups) {
    wgmma::give_registers<24>();
    if (warp < carriers) {
      for_tiles<Width, Rows>(a, pieces, base, [&](const Piece<Rows>& work, const Walk<Rows>& walk, int i) {
        if (i % carriers == warp && threadIdx.x % warp_width == 0) carry<Width, Rows>(a, work, walk, base, i);
      });
    } else if (warp == carriers && threadIdx.x % warp_width == 0) {
      produce<Width, Rows>(maps, a, pieces, base);
    }
  } else if (group > num_groups) {
    wgmma::give_registers<(Rows == 64 ? 40 : 24)>();
    write_sums<Width, Rows>(a, pieces, base, warp % writers);
  } else {
    wgmma::take_registers<(Rows == 64 ? 224 : 232)>();
    consume<Width, Rows>(a, pieces, shared, base);
  }
#endif
}

int multiprocessors() {
  int device = 0;
  int count = 0;
  PHOTON_CUDA_CHECK(cudaGetDevice(&device));
  PHOTON_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// Key heads whose blocks take turns: many, so that the blocks of one head, which wait for each other's sums, start at
// different times; few, so that what they work on stays in the cache.
int heads_together(std::int64_t positions) {
  return positions > 8192 ? 4 : positions > 512 ? 16 : 32;
}

}  // namespace

template <int Width>
bool backward_on_hopper(const Context& ctx, const Backward& a, const ConstTensorView& q, const ConstTensorView& k,
                        const ConstTensorView& v, const ConstTensorView& dout) {
  constexpr int rows = static_cast<int>(flash_query_tile(Width));
  const auto kernel = hopper_backward_kernel<Width, rows>;
  constexpr int bytes = Shared<Width, rows>::bytes;
  if (!wgmma::available(kernel, threads)) return false;
  const Maps maps{head_map(q, rows), head_map(k, keys), head_map(v, keys), head_map(dout, rows)};
  const auto num_streams = static_cast<int>(k.size(0) * k.size(2));
  const Pieces pieces{static_cast<int>(num_streams * ceil_div(k.size(1), keys)), num_streams,
                      heads_together(k.size(1))};
  allow_shared_memory(kernel, bytes);
  kernel<<<static_cast<unsigned>(std::min(pieces.count, multiprocessors())), threads, bytes, stream_of(ctx)>>>(maps, a,
                                                                                                               pieces);
  PHOTON_CUDA_CHECK(cudaGetLastError());
  return true;
}

template bool backward_on_hopper<64>(const Context&, const Backward&, const ConstTensorView&, const ConstTensorView&,
                                     const ConstTensorView&, const ConstTensorView&);
template bool backward_on_hopper<128>(const Context&, const Backward&, const ConstTensorView&, const ConstTensorView&,
                                      const ConstTensorView&, const ConstTensorView&);

}  // namespace photon::cuda::flash
