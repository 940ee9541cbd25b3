#include "kernels/cpu/matmul.hpp"

#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <limits>

namespace photon::cpu {

namespace {

// In tuned mode, from this many rows on BLAS is the faster one (measured; below, its packing costs more than it gains).
constexpr std::int64_t blas_rows = 192;
// Rows of a packed operand must be used at least this often to be worth the copy.
constexpr std::int64_t packing_use = 24;
constexpr std::int64_t serial_work = 1 << 15;  // multiply-adds that are not worth waking threads for

int blas_int(std::int64_t n) {
  PHOTON_EXPECT(n >= 0 && n <= std::numeric_limits<int>::max(), "a matrix dimension of {} for BLAS", n);
  return static_cast<int>(n);
}

void by_blas(const Matrix& a, const Matrix& b, std::int64_t k, float* c, std::int64_t ldc, bool accumulate) {
  const bool a_plain = a.step == 1;
  const bool b_plain = b.step == 1;
  const std::int64_t lda = a_plain ? std::max(a.row, k) : std::max(a.step, a.rows);
  const std::int64_t ldb = b_plain ? std::max(b.row, k) : std::max(b.step, b.rows);
  cblas_sgemm(CblasRowMajor, a_plain ? CblasNoTrans : CblasTrans, b_plain ? CblasTrans : CblasNoTrans, blas_int(a.rows),
              blas_int(b.rows), blas_int(k), 1.0F, a.data, blas_int(lda), b.data, blas_int(ldb),
              accumulate ? 1.0F : 0.0F, c, blas_int(std::max(ldc, b.rows)));
}

// Rows this far apart fall on the same few cache sets, and push one another out.
bool collides(std::int64_t stride) {
  return stride % 1024 == 0;
}

void by_dots(const Matrix& a, const Matrix& b, std::int64_t k, float* c, std::int64_t ldc, bool accumulate) {
  // A panel of each side stays in the second-level cache; enough panels to keep every thread busy.
  const std::int64_t threads = omp_get_max_threads();
  constexpr std::int64_t rows = 128;
  const std::int64_t row_panels = (a.rows + rows - 1) / rows;
  std::int64_t outputs = 128;
  while (outputs > 16 && (b.rows + outputs - 1) / outputs * row_panels < 4 * threads) outputs /= 2;
  const std::int64_t output_panels = (b.rows + outputs - 1) / outputs;
  const bool pack_a = a.step != 1 || (collides(a.row) && a.rows > 1 && b.rows >= packing_use);
  const bool pack_b = b.step != 1 || (collides(b.row) && a.rows >= packing_use);
  const std::int64_t scratch =
      ((pack_a ? std::min(rows, a.rows) : 0) + (pack_b ? std::min(outputs, b.rows) : 0)) * packed_row;
#pragma omp parallel for collapse(2) schedule(dynamic) if (a.rows * b.rows * k > serial_work)
  for (std::int64_t q = 0; q < row_panels; ++q) {
    for (std::int64_t p = 0; p < output_panels; ++p) {
      const std::int64_t r = q * rows;
      const std::int64_t o = p * outputs;
      const Matrix panel_a{a.data + r * a.row, a.row, a.step, std::min(rows, a.rows - r)};
      const Matrix panel_b{b.data + o * b.row, b.row, b.step, std::min(outputs, b.rows - o)};
      loops().dot_panel(panel_a, pack_a, panel_b, pack_b, k, c + r * ldc + o, ldc, accumulate,
                        scratch > 0 ? thread_scratch(scratch) : nullptr);
    }
  }
}

}  // namespace

void matmul(Numerics numerics, const Matrix& a, const Matrix& b, std::int64_t k, float* c, std::int64_t ldc,
            bool accumulate) {
  if (a.rows == 0 || b.rows == 0 || (k == 0 && accumulate)) return;
  const bool plain = a.step == 1 && b.step == 1;
  const bool blas = numerics == Numerics::tuned && (!plain || a.rows >= blas_rows) && k > 0;
  if (blas) {
    by_blas(a, b, k, c, ldc, accumulate);
  } else {
    by_dots(a, b, k, c, ldc, accumulate);
  }
}

}  // namespace photon::cpu
