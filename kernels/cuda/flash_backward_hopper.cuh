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
inline constexpr int threads = num_consumers + 2 * wgmma::warpgroup;
inline constexpr int carriers = 2;   // warps that carry dq, one a buffer of it
inline constexpr int writers = 4;    // warps that write it, a warpgroup of their own
inline constexpr int own_keys = 64;  // a warpgroup's
inline constexpr int keys = num_groups * own_keys;
inline constexpr int stages = 2;
inline constexpr int alignment = 1024;

struct Pieces {
  int count;
  int num_streams;  // B * Hkv
  int together;     // streams whose pieces take turns
};

// A piece of work: the keys of one tile, against all queries that see any of them. Rows: queries a tile.
template <int Rows>
struct Piece {
  int key_tile;
  int kh;
  int b;
  int first_key;
  int last_tile;  // of the queries
  int a_head;     // tiles a query head

  __device__ Piece(int number, const Pieces& pieces, const Backward& a) {
    const Sizes& s = a.s;
    const int key_tiles = (s.positions + keys - 1) / keys;
    const int first_stream = number / (pieces.together * key_tiles) * pieces.together;
    const int streams = min(pieces.together, pieces.num_streams - first_stream);
    const int own = number - first_stream * key_tiles;
    key_tile = own / streams;
    const int stream = first_stream + own % streams;
    kh = stream % a.num_key_heads;
    b = stream / a.num_key_heads;
    first_key = key_tile * keys;
    const int last_query = s.window > 0 ? min(s.positions - 1, first_key + keys - 2 + s.window) : s.positions - 1;
    last_tile = last_query / Rows;
    a_head = last_tile - first_key / Rows + 1;
  }
  __device__ int num_steps(const Sizes& s) const { return a_head * s.heads_a_key; }
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
  static constexpr int statistics_tile = 2 * Rows * 4;  // the log-sum-exps, then the others
  static constexpr int k = 0;
  static constexpr int v = k + panels * key_panel;
  static constexpr int q = v + panels * key_panel;
  static constexpr int dout = q + stages * query_tile;
  static constexpr int ds = dout + stages * query_tile;  // d loss / d score, [keys, queries]; two of them
  static constexpr int ds_tile = keys * Rows * 2;        // in panels of 64 queries
  static constexpr int dq = ds + 2 * ds_tile;            // two of them
  static constexpr int statistics = dq + 2 * dq_tile;
  static constexpr int barriers = statistics + stages * statistics_tile;
  static constexpr int num_barriers = 6 + 9 * 2;
  static constexpr int ticket = barriers + 8 * num_barriers;
  static constexpr int bytes = ticket + 8;
  static_assert(stages == 2 && bytes <= 227 * 1024);
};

// Barriers of a block. Those with a stage: what is named is there to be read, or has been read.
template <int Width, int Rows>
struct Barriers {
  unsigned base;
  __device__ unsigned at(int i) const { return base + Shared<Width, Rows>::barriers + 8 * i; }
  __device__ unsigned ticket() const { return at(0); }
  __device__ unsigned ticket_read() const { return at(1); }
  __device__ unsigned k() const { return at(2); }
  __device__ unsigned k_read() const { return at(3); }
  __device__ unsigned v() const { return at(4); }
  __device__ unsigned v_read() const { return at(5); }
  __device__ unsigned q(int stage) const { return at(6 + stage); }  // and the statistics
  __device__ unsigned q_read(int stage) const { return at(8 + stage); }
  __device__ unsigned dout(int stage) const { return at(10 + stage); }
  __device__ unsigned dout_read(int stage) const { return at(12 + stage); }
  __device__ unsigned ds(int stage) const { return at(14 + stage); }
  __device__ unsigned ds_read(int stage) const { return at(16 + stage); }
  __device__ unsigned dq(int stage) const { return at(18 + stage); }
  __device__ unsigned dq_read(int stage) const { return at(20 + stage); }
  __device__ unsigned dq_sum(int stage) const { return at(22 + stage); }

  __device__ void make() const {
    tma::make_barrier(ticket(), 1);
    tma::make_barrier(ticket_read(), consumer_warps + carriers + writers);
    tma::make_barrier(k(), 1);
    tma::make_barrier(k_read(), consumer_warps);
    tma::make_barrier(v(), 1);
    tma::make_barrier(v_read(), consumer_warps);
    for (int stage = 0; stage < 2; ++stage) {
      tma::make_barrier(q(stage), 1);
      tma::make_barrier(q_read(stage), consumer_warps);
      tma::make_barrier(dout(stage), 1);
      tma::make_barrier(dout_read(stage), consumer_warps);
      tma::make_barrier(ds(stage), consumer_warps);
      tma::make_barrier(ds_read(stage), consumer_warps);
      tma::make_barrier(dq(stage), consumer_warps);
      tma::make_barrier(dq_read(stage), writers);
      tma::make_barrier(dq_sum(stage), 1);
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

// After the calling warp's accesses.
__device__ inline void arrive_warp(unsigned barrier) {
  __syncwarp();
  if (threadIdx.x % warp_width == 0) tma::arrive(barrier);
}

// The number of the block's piece `n`, for a whole warp; num_pieces or more: there is none.
template <int Width, int Rows>
__device__ int piece_number(unsigned base, int n) {
  const Barriers<Width, Rows> barriers{base};
  tma::wait(barriers.ticket(), n & 1);
  int number;
  asm volatile("ld.shared.s32 %0, [%1];" : "=r"(number) : "r"(base + Shared<Width, Rows>::ticket) : "memory");
  arrive_warp(barriers.ticket_read());
  return number;
}

// One thread: takes one piece of work after the other, and queues copies of keys, values, and tile after tile of
// queries, gradients and statistics.
template <int Width, int Rows>
__device__ void produce(const Maps& maps, const Backward& a, const Pieces& pieces, unsigned base) {
  using At = Shared<Width, Rows>;
  const Barriers<Width, Rows> barriers{base};
  const int num_heads = a.num_key_heads * a.s.heads_a_key;
  int i = 0;  // tiles of queries so far
  for (int n = 0;; ++n) {
    const int number = atomicAdd(a.relay.ticket, 1);
    if (n > 0) tma::wait(barriers.ticket_read(), (n - 1) & 1);
    asm volatile("st.shared.s32 [%0], %1;" ::"r"(base + At::ticket), "r"(number) : "memory");
    tma::arrive(barriers.ticket());
    if (number >= pieces.count) return;
    const Piece<Rows> work(number, pieces, a);
    const auto load_keys = [&](const CUtensorMap& map, int to, unsigned barrier, unsigned read) {
      if (n > 0) tma::wait(read, (n - 1) & 1);
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
    Walk<Rows> walk(work);
    const int end = i + work.num_steps(a.s);
    for (bool starts = true; i < end; ++i, walk.next(), starts = false) {
      const int stage = i % stages;
      const int h = work.kh * a.s.heads_a_key + walk.h;
      const int first = walk.tile * Rows;
      const int parity = (i / stages - 1) & 1;
      if (i >= stages) tma::wait(barriers.q_read(stage), parity);
      tma::expect(barriers.q(stage), At::query_tile + At::statistics_tile);
      load_queries(maps.q, At::q + stage * At::query_tile, h, first, barriers.q(stage));
      const std::int64_t row = (std::int64_t{work.b} * num_heads + h) * a.padded + first;
      const unsigned statistics = base + At::statistics + stage * At::statistics_tile;
      tma::copy_bytes(statistics, a.lse_log2 + row, Rows * 4, barriers.q(stage));
      tma::copy_bytes(statistics + Rows * 4, a.delta + row, Rows * 4, barriers.q(stage));
      if (starts) load_keys(maps.v, At::v, barriers.v(), barriers.v_read());
      if (i >= stages) tma::wait(barriers.dout_read(stage), parity);
      tma::expect(barriers.dout(stage), At::query_tile);
      load_queries(maps.dout, At::dout + stage * At::query_tile, h, first, barriers.dout(stage));
      if (starts) load_keys(maps.k, At::k, barriers.k(), barriers.k_read());
    }
  }
}

__device__ inline void wait_for_blocks(const int* turn, int rank) {
  int seen = 0;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(turn) : "memory");
  } while (seen != rank);
  tma::order_global();
}

// (low, high), 1/2 of the columns apart, turned back by an angle.
__device__ inline void turn_back(float& low, float& high, float cosine, float sine) {
  const float before = low;
  low = rotated_low(before, high, cosine, -sine);
  high = rotated_high(before, high, cosine, -sine);
}

// cos and sin by which columns c, c + 1 of a row are turned, and those half of the columns further on.
struct Angles {
  float2 cosine;
  float2 sine;
};
// Those of the last row there is, for rows beyond.
template <int Width>
__device__ inline Angles angles_at(const Backward& a, int row, int column) {
  const int at = min(row, a.s.positions - 1) * (Width / 2) + column;
  return {__ldg(reinterpret_cast<const float2*>(a.cosines + at)), __ldg(reinterpret_cast<const float2*>(a.sines + at))};
}

// Writes rows first_row + 16 part .. + 15 of a tile of dq that lies in shared memory as the consumers' registers held
// it, turned back where there are angles.
template <int Width, int Rows>
__device__ void write_queries(unsigned tile, int part, const Backward& a, bf16* __restrict__ to, int first_row) {
  using At = Shared<Width, Rows>;
  constexpr int pieces = Width / 16;                                             // of 8 columns, of half of the columns
  constexpr int side = Rows == 64 ? 4 * At::dq_part : pieces * warp_width * 16;  // to the other half
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int row = first_row + part * 16 + lane / 4;
  const int column = lane % 4 * 2;
  const bool turns = a.cosines != nullptr;
  unsigned from = tile + part * At::dq_part + lane * 16;
  unsigned* words = reinterpret_cast<unsigned*>(to + row * a.dq.position + column);
  const auto angles_of = [&](int half, int piece) {
    return turns ? angles_at<Width>(a, row + 8 * half, column + 8 * piece) : Angles{{1, 1}, {0, 0}};
  };
  Angles next[2] = {angles_of(0, 0), angles_of(1, 0)};
#pragma unroll 1
  for (int piece = 0; piece < pieces; ++piece, from += warp_width * 16, words += 4) {
    Angles by[2] = {next[0], next[1]};
    if (Rows == 64) {  // one piece ahead, where there are registers for it
      next[0] = angles_of(0, min(piece + 1, pieces - 1));
      next[1] = angles_of(1, min(piece + 1, pieces - 1));
    } else if (piece > 0) {
      by[0] = angles_of(0, piece);
      by[1] = angles_of(1, piece);
    }
    float low[4];
    float high[4];
    const auto load = [&](float(&x)[4], unsigned address) {
      asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                   : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                   : "r"(address));
    };
    load(low, from);
    load(high, from + side);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* const x = low + 2 * half;
      float* const y = high + 2 * half;
      turn_back(x[0], y[0], by[half].cosine.x, by[half].sine.x);
      turn_back(x[1], y[1], by[half].cosine.y, by[half].sine.y);
      if (row + 8 * half >= a.s.positions) continue;
      unsigned* const at = words + half * 4 * a.dq.position;
      at[0] = mma::pack(x[0] * a.s.scale, x[1] * a.s.scale);
      at[Width / 4] = mma::pack(y[0] * a.s.scale, y[1] * a.s.scale);
    }
  }
}

// One thread, which carries every other tile of dq: adds the tile to what blocks of lower keys have added. What a tile
// of the block's own keys comes to is brought back, and the writers take it from there.
template <int Width, int Rows>
__device__ void carry(const Backward& a, const Piece<Rows>& work, const Walk<Rows>& walk, unsigned base, int i) {
  using At = Shared<Width, Rows>;
  const Barriers<Width, Rows> barriers{base};
  const int stage = i % 2;
  const unsigned tile = base + At::dq + stage * At::dq_tile;
  const int h = work.kh * a.s.heads_a_key + walk.h;
  const int rank = work.rank(walk.tile, a.s);
  const bool last = work.last(walk.tile);
  const std::int64_t place =
      (std::int64_t{work.b} * (a.num_key_heads * a.s.heads_a_key) + h) * (a.padded / Rows) + walk.tile;
  float* const sums = a.relay.sums + place * (Rows * Width);
  int* const turn = a.relay.turns + place;
  if (rank > 0) wait_for_blocks(turn, rank);
  tma::wait(barriers.dq(stage), i / 2 & 1);
  if (rank > 0) {
    tma::add_floats(sums, tile, At::dq_tile);
  } else if (!last) {
    tma::store_bytes(sums, tile, At::dq_tile);
  }
  tma::commit_stores();
  if (!last) {
    tma::wait_read();
    tma::arrive(barriers.dq_read(stage), writers);
    tma::wait_stored();
    tma::order_global();
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(turn), "r"(rank + 1) : "memory");
  } else if (rank > 0) {
    tma::wait_stored();
    tma::expect(barriers.dq_sum(stage), At::dq_tile);
    tma::copy_bytes(tile, sums, At::dq_tile, barriers.dq_sum(stage));
  } else {
    tma::arrive(barriers.dq_sum(stage));
  }
}

// Calls each(work, walk, i) for one tile of queries after the other, i counting them, as a whole warp.
template <int Width, int Rows, class Each>
__device__ void for_tiles(const Backward& a, const Pieces& pieces, unsigned base, Each&& each) {
  int i = 0;
  for (int n = 0;; ++n) {
    const int number = piece_number<Width, Rows>(base, n);
    if (number >= pieces.count) return;
    const Piece<Rows> work(number, pieces, a);
    Walk<Rows> walk(work);
    for (const int end = i + work.num_steps(a.s); i < end; ++i, walk.next()) each(work, walk, i);
  }
}

// A warp that writes its share of every tile of dq that is complete.
template <int Width, int Rows>
__device__ void write_sums(const Backward& a, const Pieces& pieces, unsigned base, int warp) {
  using At = Shared<Width, Rows>;
  const Barriers<Width, Rows> barriers{base};
  int parities = 0;  // a bit a buffer
  for_tiles<Width, Rows>(a, pieces, base, [&](const Piece<Rows>& work, const Walk<Rows>& walk, int i) {
    if (!work.last(walk.tile)) return;
    const int stage = i % 2;
    tma::wait(barriers.dq_sum(stage), parities >> stage & 1);
    parities ^= 1 << stage;
    const int h = work.kh * a.s.heads_a_key + walk.h;
    for (int part = warp; part < Rows / 16; part += writers) {
      write_queries<Width, Rows>(base + At::dq + stage * At::dq_tile, part, a, a.dq.at(work.b, h), walk.tile * Rows);
    }
    arrive_warp(barriers.dq_read(stage));
  });
}

#endif

}  // namespace photon::cuda::flash::hopper
