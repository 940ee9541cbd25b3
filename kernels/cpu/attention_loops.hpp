// Attention over tiles of keys, of one instruction set.
#pragma once

#include "kernels/cpu/gemm_loops.hpp"
#include "kernels/cpu/row_loops.hpp"

namespace photon::cpu::PHOTON_ISA {

inline constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
static_assert(attention_keys % lanes == 0);

// The largest of scores[begin .. end) of one row; `padded` is a multiple of the lanes. NaN is passed over.
inline float masked_largest(const float* scores, std::int64_t begin, std::int64_t end, std::int64_t padded) {
  Vec m = splat(minus_infinity);
  for (std::int64_t j = 0; j < padded; j += lanes) {
    m = max(m, lanes_between(j, begin, end) ? load(scores + j) : splat(minus_infinity));
  }
  return max_lanes(m);
}

// scores[0 .. padded) of one row, of which [begin, end) count: p = exp(score * scale - shift), 0 elsewhere. Returns
// their sum.
inline float masked_exp(float* scores, std::int64_t begin, std::int64_t end, std::int64_t padded, float scale,
                        float shift) {
  Vec sum{};
  for (std::int64_t j = 0; j < padded; j += lanes) {
    const Vec p = lanes_between(j, begin, end) ? exp(load(scores + j) * scale - shift) : Vec{};
    sum += p;
    store(scores + j, p);
  }
  return sum_lanes(sum);
}

// Calls body(first column, count, row in the cache) for the parts of columns [begin, end) of the tile at `tile` that
// lie evenly in a cache of `capacity` rows: one, or two where a ring wraps.
template <class Body>
inline void cached_runs(std::int64_t tile, std::int64_t begin, std::int64_t end, std::int64_t capacity, Body body) {
  for (std::int64_t c = begin; c < end;) {
    const std::int64_t row = (tile + c) % capacity;
    const std::int64_t count = end - c < capacity - row ? end - c : capacity - row;
    body(c, count, row);
    c += count;
  }
}

inline void attend(const AttentionQueries& t, float* scratch) {
  float* scores = scratch;                                                 // [queries, keys]
  float* sums = scores + attention_queries * attention_keys;               // [queries, head_width]
  float* largest_score = sums + attention_queries * t.head_width;          // [queries]
  float* total = largest_score + attention_queries;                        // [queries]
  const std::int64_t last = t.position + (t.count - 1) * t.position_step;  // the largest position
  const auto first_key = [&](std::int64_t i) { return t.window > 0 && i >= t.window ? i - t.window + 1 : 0; };
  const std::int64_t lowest = first_key(t.position);
  for (std::int64_t r = 0; r < t.count; ++r) {
    largest_score[r] = minus_infinity;
    total[r] = 0;
    for (std::int64_t d = 0; d < t.head_width; ++d) sums[r * t.head_width + d] = 0;
  }
  for (std::int64_t tile = lowest / attention_keys * attention_keys; tile <= last; tile += attention_keys) {
    const std::int64_t begin = lowest > tile ? lowest - tile : 0;
    const std::int64_t end = last + 1 - tile < attention_keys ? last + 1 - tile : attention_keys;
    const std::int64_t padded = (end + lanes - 1) / lanes * lanes;
    cached_runs(tile, begin, end, t.capacity, [&](std::int64_t c, std::int64_t count, std::int64_t row) {
      dot_direct(t.q, t.q_stride, t.count, t.k + row * t.k_stride, t.k_stride, count, t.head_width, scores + c,
                 attention_keys, false);
    });
    for (std::int64_t r = 0; r < t.count; ++r) {
      float* s = scores + r * attention_keys;
      const std::int64_t i = t.position + r * t.position_step;
      const std::int64_t row_begin = first_key(i) > tile ? first_key(i) - tile : 0;
      const std::int64_t row_end = i + 1 - tile < end ? i + 1 - tile : end;
      if (row_begin >= row_end) {
        for (std::int64_t j = 0; j < padded; ++j) s[j] = 0;
        continue;
      }
      const float here = masked_largest(s, row_begin, row_end, padded) * t.scale;
      const float now = here > largest_score[r] ? here : largest_score[r];
      const float keep = largest_score[r] == minus_infinity ? 0.0F : exp(splat(largest_score[r] - now))[0];
      const float sum = masked_exp(s, row_begin, row_end, padded, t.scale, now);
      total[r] = total[r] * keep + sum;
      largest_score[r] = now;
      if (keep != 1.0F) {
        float* o = sums + r * t.head_width;
        for (std::int64_t d = 0; d < t.head_width; d += lanes) {
          store_upto(o + d, load_upto(o + d, t.head_width - d) * keep, t.head_width - d);
        }
      }
    }
    cached_runs(tile, begin, end, t.capacity, [&](std::int64_t c, std::int64_t count, std::int64_t row) {
      outer_direct(scores + c, attention_keys, 1, t.count, count, t.v + row * t.v_stride, t.v_stride, t.head_width,
                   sums, t.head_width);
    });
  }
  for (std::int64_t r = 0; r < t.count; ++r) {
    const float inverse = 1.0F / total[r];
    const float* o = sums + r * t.head_width;
    for (std::int64_t d = 0; d < t.head_width; d += lanes) {
      store_upto(t.out + r * t.out_stride + d, load_upto(o + d, t.head_width - d) * inverse, t.head_width - d);
    }
    if (t.lse != nullptr) {
      t.lse[r] =
          static_cast<float>(static_cast<double>(largest_score[r]) + __builtin_log(static_cast<double>(total[r])));
    }
  }
}

inline void clear_rows(float* x, std::int64_t stride, std::int64_t rows, std::int64_t width) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t d = 0; d < width; ++d) x[r * stride + d] = 0;
  }
}

// p and dp hold the probabilities and dout v^T of `rows` x `columns`; dp becomes the gradient of the raw scores q k^T.
inline void score_gradient(const float* p, float* dp, std::int64_t columns, float offset, float scale) {
  for (std::int64_t j = 0; j < columns; j += lanes) {
    const std::int64_t here = columns - j;
    store_upto(dp + j, load_upto(p + j, here) * (load_upto(dp + j, here) - offset) * scale, here);
  }
}

inline float dot_row(const float* a, const float* b, std::int64_t n) {
  Vec sum{};
  for (std::int64_t i = 0; i < n; i += lanes) sum = fma(load_upto(a + i, n - i), load_upto(b + i, n - i), sum);
  return sum_lanes(sum);
}

inline void attend_backward(const AttentionGradient& t, float* scratch) {
  const std::int64_t width = t.head_width;
  float* p = scratch;                                   // [queries, keys]
  float* dp = p + attention_queries * attention_keys;   // [queries, keys]
  float* dk = dp + attention_queries * attention_keys;  // [keys, head_width]
  float* dv = dk + attention_keys * width;              // [keys, head_width]
  float* offset = dv + attention_keys * width;          // [query_heads, length]: dout . out
  for (std::int64_t h = 0; h < t.query_heads; ++h) {
    clear_rows(t.dq + h * t.dq_head, t.dq_stride, t.length, width);
    for (std::int64_t i = 0; i < t.length; ++i) {
      offset[h * t.length + i] =
          dot_row(t.dout + h * t.dout_head + i * t.dout_stride, t.out + h * t.out_head + i * t.out_stride, width);
    }
  }
  for (std::int64_t tile = 0; tile < t.length; tile += attention_keys) {
    const std::int64_t keys = t.length - tile < attention_keys ? t.length - tile : attention_keys;
    const std::int64_t padded = (keys + lanes - 1) / lanes * lanes;
    const std::int64_t last_query =
        t.window > 0 && tile + keys - 1 + t.window < t.length ? tile + keys - 1 + t.window : t.length;
    clear_rows(dk, width, keys, width);
    clear_rows(dv, width, keys, width);
    const float* k = t.k + tile * t.k_stride;
    const float* v = t.v + tile * t.v_stride;
    for (std::int64_t h = 0; h < t.query_heads; ++h) {
      for (std::int64_t first = tile; first < last_query; first += attention_queries) {
        const std::int64_t count = last_query - first < attention_queries ? last_query - first : attention_queries;
        const float* q = t.q + h * t.q_head + first * t.q_stride;
        const float* dout = t.dout + h * t.dout_head + first * t.dout_stride;
        dot_direct(q, t.q_stride, count, k, t.k_stride, keys, width, p, attention_keys, false);
        dot_direct(dout, t.dout_stride, count, v, t.v_stride, keys, width, dp, attention_keys, false);
        for (std::int64_t r = 0; r < count; ++r) {
          const std::int64_t i = first + r;
          const std::int64_t low = t.window > 0 && i >= t.window ? i - t.window + 1 : 0;
          const std::int64_t begin = low > tile ? low - tile : 0;
          const std::int64_t end = i + 1 - tile < keys ? i + 1 - tile : keys;
          masked_exp(p + r * attention_keys, begin, end, padded, t.scale, t.lse[h * t.lse_head + i]);
          score_gradient(p + r * attention_keys, dp + r * attention_keys, keys, offset[h * t.length + i], t.scale);
        }
        outer_direct(p, 1, attention_keys, keys, count, dout, t.dout_stride, width, dv, width);
        outer_direct(dp, 1, attention_keys, keys, count, q, t.q_stride, width, dk, width);
        outer_direct(dp, attention_keys, 1, count, keys, k, t.k_stride, width,
                     t.dq + h * t.dq_head + first * t.dq_stride, t.dq_stride);
      }
    }
    for (std::int64_t j = 0; j < keys; ++j) {
      __builtin_memcpy(t.dk + (tile + j) * t.dk_stride, dk + j * width,
                       static_cast<std::size_t>(width) * sizeof(float));
      __builtin_memcpy(t.dv + (tile + j) * t.dv_stride, dv + j * width,
                       static_cast<std::size_t>(width) * sizeof(float));
    }
  }
}

// The probabilities [queries, attention_keys] of one short sequence.
inline void group_probabilities(const GroupHead& t, float* p) {
  const std::int64_t padded = (t.positions + lanes - 1) / lanes * lanes;
  dot_direct(t.q, t.q_stride, t.queries, t.k, t.k_stride, t.positions, t.head_width, p, attention_keys, false);
  for (std::int64_t r = 0; r < t.queries; ++r) {
    float* s = p + r * attention_keys;
    const std::int64_t end = t.positions - t.queries + r + 1;
    const float sum = masked_exp(s, 0, end, padded, t.scale, masked_largest(s, 0, end, padded) * t.scale);
    const float inverse = 1.0F / sum;
    for (std::int64_t j = 0; j < padded; j += lanes) store(s + j, load(s + j) * inverse);
  }
}

inline void group_forward(const GroupHead& t, float* out, std::int64_t out_stride, float* scratch) {
  group_probabilities(t, scratch);
  clear_rows(out, out_stride, t.queries, t.head_width);
  outer_direct(scratch, attention_keys, 1, t.queries, t.positions, t.v, t.v_stride, t.head_width, out, out_stride);
}

inline void group_backward(const GroupHead& t, const float* dout, std::int64_t dout_stride, float* dq,
                           std::int64_t dq_stride, float* dk, std::int64_t dk_stride, float* dv, std::int64_t dv_stride,
                           float* scratch) {
  float* p = scratch;
  float* dp = scratch + attention_keys * attention_keys;
  group_probabilities(t, p);
  dot_direct(dout, dout_stride, t.queries, t.v, t.v_stride, t.positions, t.head_width, dp, attention_keys, false);
  for (std::int64_t r = 0; r < t.queries; ++r) {
    const float offset = dot_row(p + r * attention_keys, dp + r * attention_keys, t.positions);
    score_gradient(p + r * attention_keys, dp + r * attention_keys, t.positions, offset, t.scale);
  }
  clear_rows(dq, dq_stride, t.queries, t.head_width);
  outer_direct(dp, attention_keys, 1, t.queries, t.positions, t.k, t.k_stride, t.head_width, dq, dq_stride);
  outer_direct(p, 1, attention_keys, t.positions, t.queries, dout, dout_stride, t.head_width, dv, dv_stride);
  outer_direct(dp, 1, attention_keys, t.positions, t.queries, t.q, t.q_stride, t.head_width, dk, dk_stride);
}

}  // namespace photon::cpu::PHOTON_ISA
