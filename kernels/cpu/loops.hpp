// The inner loops of the CPU bodies, compiled once for each instruction set and chosen when the program starts. All are
// single-threaded; the ops divide their work among threads so that no result depends on how many there are.
#pragma once

#include <cstdint>

namespace photon::cpu {

// Dot products are summed in blocks of this many terms (a multiple of every vector's lanes).
inline constexpr std::int64_t block_k = 512;

// Floats from a packed row to the next; the odd vector keeps rows from falling on the same cache sets.
inline constexpr std::int64_t packed_row = block_k + 16;

// Element (i, k) is data[i * row + k * step].
struct Matrix {
  const float* data;
  std::int64_t row;
  std::int64_t step;
  std::int64_t rows;
};

// Keys per tile of an attention sweep. Tiles start at multiples of it.
inline constexpr std::int64_t attention_keys = 64;
// Queries per tile of the stream ops.
inline constexpr std::int64_t attention_queries = 32;

// Attention of up to attention_queries queries of one head. Query r stands at `position + r * position_step` and sees
// keys max(0, i - window + 1) .. i of its position i (all when window is 0). Key p is row p mod capacity of k and v.
struct AttentionQueries {
  const float* q;
  std::int64_t q_stride;  // floats from a query to the next
  float* out;
  std::int64_t out_stride;
  float* lse;  // contiguous, or null
  std::int64_t count;
  std::int64_t position;
  std::int64_t position_step;
  const float* k;
  const float* v;
  std::int64_t k_stride;
  std::int64_t v_stride;
  std::int64_t capacity;
  std::int64_t window;
  std::int64_t head_width;
  float scale;
};

// The gradient of one sequence's key/value head: all the query heads that read it.
struct AttentionGradient {
  std::int64_t length;  // N
  std::int64_t head_width;
  std::int64_t window;
  std::int64_t query_heads;  // that share this key head; head h is `h * *_head` further on
  float scale;
  const float* q;
  const float* out;
  const float* dout;
  const float* lse;
  float* dq;
  const float* k;
  const float* v;
  float* dk;
  float* dv;
  std::int64_t q_stride, out_stride, dout_stride, dq_stride, k_stride, v_stride, dk_stride, dv_stride;
  std::int64_t q_head, out_head, dout_head, lse_head, dq_head;
};
// Floats of scratch for either.
constexpr std::int64_t attention_scratch(std::int64_t head_width) {
  return 2 * attention_queries * attention_keys + 2 * attention_keys * head_width + 8 * attention_queries;
}
constexpr std::int64_t attention_gradient_scratch(std::int64_t head_width, std::int64_t rows) {
  return attention_scratch(head_width) + rows;
}

// One group of the short-sequence attention: one key head and the query heads that read it.
struct GroupHead {
  std::int64_t positions;  // S
  std::int64_t queries;    // Sq, the last of the positions
  std::int64_t head_width;
  float scale;
  const float* q;
  const float* k;
  const float* v;
  std::int64_t q_stride, k_stride, v_stride;
};

struct Dots {
  double yx, yy, xx;
};

struct AdamWFactors {
  float beta1, beta2;
  float rest1, rest2;  // 1 - beta, rounded once
  float gradient_scale;
  float decay;      // 1 - learning_rate * weight_decay
  float step_size;  // learning_rate / (1 - beta1^step)
  float v_scale;    // 1 / (1 - beta2^step)
  float eps;
};

struct Loops {
  const char* name;
  // c[r, o] (+)= sum_k a[r, k] b[o, k]; both forms give the same bits. Direct: both contiguous in k. Panel: packs what
  // it is told to, with packed_row floats of scratch for each row packed.
  void (*dot_direct)(const float* a, std::int64_t lda, std::int64_t rows, const float* b, std::int64_t ldb,
                     std::int64_t outputs, std::int64_t k, float* c, std::int64_t ldc, bool accumulate);
  void (*dot_panel)(const Matrix& a, bool pack_a, const Matrix& b, bool pack_b, std::int64_t k, float* c,
                    std::int64_t ldc, bool accumulate, float* scratch);
  // Returns rstd.
  float (*rms_norm_row)(const float* x, const float* w, double eps, std::int64_t width, float* y);
  // dx = before + the gradient of a row, without `before` where that is null; dw += its share of the weight's gradient;
  // y, unless null, becomes the row that was made of x.
  void (*rms_norm_backward_row)(const float* dy, const float* x, const float* w, float rstd, std::int64_t width,
                                const float* before, float* dx, float* y, float* dw);
  void (*swiglu_forward)(const float* gate, const float* up, std::int64_t n, float* out);
  void (*swiglu_backward)(const float* dout, const float* gate, const float* up, std::int64_t n, float* dgate,
                          float* dup);
  // Turns (x[i], x[i + half]) by angle i; sign -1 turns back.
  void (*rotate)(float* x, const float* cosines, const float* sines, std::int64_t half, float sign);
  void (*add)(const float* from, std::int64_t n, float* to);                       // to += from
  void (*add_scaled)(const float* from, float factor, std::int64_t n, float* to);  // to += factor * from
  float (*largest)(const float* x, std::int64_t n);                                // NaN is passed over
  double (*sum_exp)(const float* x, float shift, float factor, std::int64_t n);    // sum of exp((x - shift) * factor)
  void (*write_exp)(const float* x, float shift, float factor, float scale, std::int64_t n,
                    float* to);  // to = scale * exp((x - shift) * factor)
  double (*sum_of_squares)(const float* x, std::int64_t n);
  Dots (*dots)(const float* y, const float* x, std::int64_t n);
  void (*adamw)(const AdamWFactors& f, std::int64_t n, float* p, const float* g, float* m, float* v);
  void (*attend)(const AttentionQueries& queries, float* scratch);
  void (*attend_backward)(const AttentionGradient& gradient, float* scratch);
  void (*group_forward)(const GroupHead& head, float* out, std::int64_t out_stride, float* scratch);
  // Replaces dq, adds to dk and dv.
  void (*group_backward)(const GroupHead& head, const float* dout, std::int64_t dout_stride, float* dq,
                         std::int64_t dq_stride, float* dk, std::int64_t dk_stride, float* dv, std::int64_t dv_stride,
                         float* scratch);
};

// The best that this processor runs.
const Loops& loops();

enum class Isa { baseline, avx2, avx512 };
// Null when the processor or the build lacks it.
const Loops* loops_of(Isa isa);
// For tests: makes loops() return these from now on.
void use_loops(const Loops& chosen);

// Uninitialised floats of this thread, aligned to 64 bytes; valid until its next call.
float* thread_scratch(std::int64_t count);

}  // namespace photon::cpu
