// The backward pass on Hopper: the order of its work, its shared memory, and the warps that feed it and carry dq.
//
// dq is summed over blocks that each own some keys. Blocks come past a head's tiles of queries from the last one down,
// and the sum of a tile grows in order of ascending keys: by the copy engine, in global memory, while the products go
// on. The block of a tile's own keys is the last one and writes dq. Pieces of work are taken in such an order that
// whoever is waited for has started; long ones go first, and one head's follow each other at a distance.
#pragma once

#include "kernels/cuda/flash_backward.cuh"
#include "kernels/cuda/scratch.hpp"
#include "kernels/cuda/tma.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace photon::cuda::flash::hopper {

inline constexpr int num_groups = 2;  // warpgroups that multiply
inline constexpr int num_consumers = num_groups * wgmma::warpgroup;
inline constexpr int consumer_warps = num_consumers / warp_width;
inline constexpr int threads = num_consumers + wgmma::warpgroup;
inline constexpr int carriers = 3;   // warps that carry dq
inline constexpr int own_keys = 64;  // a warpgroup's
inline constexpr int keys = num_groups * own_keys;
inline constexpr int stages = 2;
inline constexpr int alignment = 1024;

// One block's work; Rows: queries a tile.
template <int Rows>
struct Piece {
  int key_tile;
  int kh;
  int b;
  int first_key;
  int last_tile;  // of the queries that see any of these keys
  int a_head;     // tiles a query head

  // ticket: the number of this piece; heads_together: key heads whose blocks take turns.
  __device__ Piece(int ticket, int num_streams, int heads_together, int num_key_heads, const Sizes& s) {
    const int key_tiles = (s.positions + keys - 1) / keys;
    const int first_stream = ticket / (heads_together * key_tiles) * heads_together;
    const int streams = min(heads_together, num_streams - first_stream);
    const int own = ticket - first_stream * key_tiles;
    key_tile = own / streams;
    const int stream = first_stream + own % streams;
    kh = stream % num_key_heads;
    b = stream / num_key_heads;
    first_key = key_tile * keys;
    const int last_query = s.window > 0 ? min(s.positions - 1, first_key + keys - 2 + s.window) : s.positions - 1;
    last_tile = last_query / Rows;
    a_head = last_tile - first_key / Rows + 1;
  }
  // How many blocks add to this tile before this one, and whether it is the last.
  __device__ int rank(int tile, const Sizes& s) const {
    return key_tile - (s.window > 0 ? max(0, tile * Rows - s.window + 1) / keys : 0);
  }
  __device__ bool last(int tile) const { return tile * Rows / keys == key_tile; }
};

// The tiles of queries that a block comes past, one after the other.
template <int Rows>
struct Walk {
  const Piece<Rows>& work;
  int h;  // query head of the key head's
  int tile;
  __device__ explicit Walk(const Piece<Rows>& w) : work(w), h(0), tile(w.last_tile) {}
  __device__ void next() {
    if (--tile > work.last_tile - work.a_head) return;
    tile = work.last_tile;
    ++h;
  }
};

// Offsets in shared memory.
template <int Width, int Rows>
struct Shared {
  static constexpr int panels = Width / wgmma::panel;
  static constexpr int key_panel = keys * wgmma::panel_bytes;
  static constexpr int query_panel = Rows * wgmma::panel_bytes;
  static constexpr int query_tile = panels * query_panel;
  static constexpr int dq_part = Rows * Width * 4 / consumer_warps;  // as a warp's registers hold it
  static constexpr int dq_tile = consumer_warps * dq_part;
  static constexpr int statistics_tile = Rows * sizeof(Statistics);
  static constexpr int k = 0;
  static constexpr int v = k + panels * key_panel;
  static constexpr int q = v + panels * key_panel;
  static constexpr int dout = q + stages * query_tile;
  static constexpr int ds = dout + stages * query_tile;  // d loss / d score, [keys, queries]; two of them
  static constexpr int ds_tile = keys * Rows * 2;        // in panels of 64 queries
  static constexpr int dq = ds + 2 * ds_tile;            // two of them
  static constexpr int statistics = dq + 2 * dq_tile;
  static constexpr int barriers = statistics + stages * statistics_tile;
  static constexpr int num_barriers = 3 + 8 * 2;
  static constexpr int ticket = barriers + 8 * num_barriers;
  static constexpr int bytes = ticket + 8;
  static_assert(stages == 2 && bytes <= 227 * 1024);
};

// Barriers of a block. Those with a stage: what is named is there to be read, or has been read.
template <int Width, int Rows>
struct Barriers {
  unsigned base;
  __device__ unsigned at(int i) const { return base + Shared<Width, Rows>::barriers + 8 * i; }
  __device__ unsigned k() const { return at(0); }
  __device__ unsigned v() const { return at(1); }
  __device__ unsigned dq_sum() const { return at(2); }
  __device__ unsigned q(int stage) const { return at(3 + stage); }  // and the statistics
  __device__ unsigned q_read(int stage) const { return at(5 + stage); }
  __device__ unsigned dout(int stage) const { return at(7 + stage); }
  __device__ unsigned dout_read(int stage) const { return at(9 + stage); }
  __device__ unsigned ds(int stage) const { return at(11 + stage); }
  __device__ unsigned ds_read(int stage) const { return at(13 + stage); }
  __device__ unsigned dq(int stage) const { return at(15 + stage); }
  __device__ unsigned dq_read(int stage) const { return at(17 + stage); }

  __device__ void make() const {
    for (int i = 0; i < 3; ++i) tma::make_barrier(at(i), 1);
    for (int stage = 0; stage < 2; ++stage) {
      tma::make_barrier(q(stage), 1);
      tma::make_barrier(q_read(stage), consumer_warps);
      tma::make_barrier(dout(stage), 1);
      tma::make_barrier(dout_read(stage), consumer_warps);
      tma::make_barrier(ds(stage), consumer_warps);
      tma::make_barrier(ds_read(stage), consumer_warps);
      tma::make_barrier(dq(stage), consumer_warps);
      tma::make_barrier(dq_read(stage), 1);
    }
    tma::publish_barriers();
  }
};

// Descriptions of the inputs for the copy engine.
struct Maps {
  CUtensorMap q;
  CUtensorMap k;
  CUtensorMap v;
  CUtensorMap dout;
};

#if PHOTON_HAVE_WGMMA

// One thread: queues copies of keys, values, and tile after tile of queries, gradients and statistics.
template <int Width, int Rows>
__device__ void produce(const Maps& maps, const Backward& a, unsigned base, const Piece<Rows>& work) {
  using At = Shared<Width, Rows>;
  const Barriers<Width, Rows> barriers{base};
  const int num_steps = work.a_head * a.s.heads_a_key;
  const int num_heads = a.num_key_heads * a.s.heads_a_key;
  const auto load_keys = [&](const CUtensorMap& map, int to, unsigned barrier) {
    tma::expect(barrier, At::panels * At::key_panel);
    for (int p = 0; p < At::panels; ++p) {
      tma::copy(base + to + p * At::key_panel, map, p * wgmma::panel, work.kh, work.first_key, work.b, barrier);
    }
  };
  const auto load_queries = [&](const CUtensorMap& map, int to, int h, int first, unsigned barrier) {
    for (int p = 0; p < At::panels; ++p) {
      tma::copy(base + to + p * At::query_panel, map, p * wgmma::panel, h, first, work.b, barrier);
    }
  };
  load_keys(maps.k, At::k, barriers.k());
  Walk<Rows> walk(work);
  for (int step = 0; step < num_steps; ++step, walk.next()) {
    const int stage = step % stages;
    const int h = work.kh * a.s.heads_a_key + walk.h;
    const int first = walk.tile * Rows;
    const int parity = (step / stages - 1) & 1;
    if (step >= stages) tma::wait(barriers.q_read(stage), parity);
    tma::expect(barriers.q(stage), At::query_tile + At::statistics_tile);
    load_queries(maps.q, At::q + stage * At::query_tile, h, first, barriers.q(stage));
    tma::copy_bytes(base + At::statistics + stage * At::statistics_tile,
                    a.statistics + (std::int64_t{work.b} * num_heads + h) * a.padded + first, At::statistics_tile,
                    barriers.q(stage));
    if (step == 0) load_keys(maps.v, At::v, barriers.v());
    if (step >= stages) tma::wait(barriers.dout_read(stage), parity);
    tma::expect(barriers.dout(stage), At::query_tile);
    load_queries(maps.dout, At::dout + stage * At::query_tile, h, first, barriers.dout(stage));
  }
}

__device__ inline void wait_for_blocks(const int* turn, int rank) {
  int seen = 0;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(turn) : "memory");
  } while (seen != rank);
  tma::order_global();
}

// Writes a tile of dq that lies in shared memory as the consumers' registers held it.
template <int Width, int Rows>
__device__ void write_queries(unsigned tile, bf16* __restrict__ to, std::int64_t stride, int first_row, int carrier,
                              const Sizes& s) {
  using At = Shared<Width, Rows>;
  constexpr int parts = Rows / 16;
  constexpr int pieces = Width / 16;  // of 8 columns, of half of the columns
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  for (int i = carrier; i < parts * pieces; i += carriers) {
    const int part = i / pieces;
    const int column = i % pieces * 8 + lane % 4 * 2;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      float x[4];
      asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                   : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                   : "r"(tile + part * At::dq_part + side * (parts == 4 ? 4 * At::dq_part : pieces * warp_width * 16) +
                         (i % pieces * warp_width + lane) * 16));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + part * 16 + 8 * half + lane / 4;
        if (row >= s.positions) continue;
        *reinterpret_cast<unsigned*>(to + row * stride + side * (Width / 2) + column) =
            mma::pack(x[2 * half] * s.scale, x[2 * half + 1] * s.scale);
      }
    }
  }
}

// The warps that carry dq: the first thread adds a tile to what blocks of lower keys have added, or, for the tiles of
// the block's own keys, all of them write the sum.
template <int Width, int Rows>
__device__ void carry(const Backward& a, unsigned base, const Piece<Rows>& work, int carrier) {
  using At = Shared<Width, Rows>;
  const Barriers<Width, Rows> barriers{base};
  const Sizes& s = a.s;
  const int num_steps = work.a_head * s.heads_a_key;
  const int query_tiles = a.padded / Rows;
  const bool leads = carrier == 0 && threadIdx.x % warp_width == 0;
  int finished = 0;
  Walk<Rows> walk(work);
  for (int step = 0; step < num_steps; ++step, walk.next()) {
    const int stage = step % 2;
    const unsigned tile = base + At::dq + stage * At::dq_tile;
    const int h = work.kh * s.heads_a_key + walk.h;
    const std::int64_t place = (std::int64_t{work.b} * (a.num_key_heads * s.heads_a_key) + h) * query_tiles + walk.tile;
    const int rank = work.rank(walk.tile, s);
    float* const sums = a.relay.sums + place * (Rows * Width);
    int* const turn = a.relay.turns + place;
    const bool last = work.last(walk.tile);
    if (leads) {
      tma::wait(barriers.dq(stage), step / 2 & 1);
      if (rank > 0) wait_for_blocks(turn, rank);
      if (rank > 0) {
        tma::add_floats(sums, tile, At::dq_tile);
      } else if (!last) {
        tma::store_bytes(sums, tile, At::dq_tile);
      }
      tma::commit_stores();
      if (!last) {
        tma::wait_read();
        tma::arrive(barriers.dq_read(stage));
      }
      tma::wait_stored();
      if (!last) {
        tma::order_global();
        asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(turn), "r"(rank + 1) : "memory");
      } else {
        if (rank > 0) {
          tma::expect(barriers.dq_sum(), At::dq_tile);
          tma::copy_bytes(tile, sums, At::dq_tile, barriers.dq_sum());
        } else {
          tma::arrive(barriers.dq_sum());
        }
      }
    }
    if (!last) continue;
    tma::wait(barriers.dq_sum(), finished++ & 1);
    write_queries<Width, Rows>(tile, a.dq.at(work.b, h), a.dq.position, walk.tile * Rows, carrier, s);
    asm volatile("bar.sync 2, %0;" ::"n"(carriers * warp_width) : "memory");
    if (leads) tma::arrive(barriers.dq_read(stage));
  }
}

#endif

}  // namespace photon::cuda::flash::hopper
