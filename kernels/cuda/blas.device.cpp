#include "kernels/cuda/blas.hpp"

#include <cublasLt.h>

#include <array>
#include <map>
#include <memory>
#include <tuple>

#include "tensor/cuda_check.hpp"

namespace photon::cuda {
namespace {

void check_blas(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(fmt::format("{} failed", call), cublasLtGetStatusString(status),
              "check the GPU with nvidia-smi; if it is healthy, report this as a defect in photon");
}

#define PHOTON_BLAS_CHECK(call) check_blas((call), #call)

// Owners of cuBLASLt's descriptors.
template <class Handle, cublasStatus_t (*destroy)(Handle)>
struct Destroyer {
  using pointer = Handle;
  void operator()(Handle handle) const { (void)destroy(handle); }
};
template <class Handle, cublasStatus_t (*destroy)(Handle)>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroyer<Handle, destroy>>;
using Library = Owned<cublasLtHandle_t, cublasLtDestroy>;
using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

constexpr std::int64_t workspace_bytes = std::int64_t{32} << 20;  // what cuBLAS recommends for Hopper
constexpr std::int64_t canonical_rows = 512;  // the M for which row-independent algorithms are chosen

// All that the choice of an algorithm depends on: shapes, row strides, dtypes, alignments, transpositions, beta.
using ProductKey = std::array<std::int64_t, 13>;

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF;
}

std::uint32_t alignment_of(const void* data) {
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  for (const std::uint32_t bytes : {16U, 8U, 4U}) {
    if (address % bytes == 0) return bytes;
  }
  return 2;
}

std::int64_t row_stride(const ConstTensorView& x) {
  return x.size(0) > 1 ? x.stride(0) : std::max(x.size(1), x.stride(0));
}

Layout make_layout(DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  PHOTON_BLAS_CHECK(cublasLtMatrixLayoutCreate(&layout, type_of(dtype), static_cast<std::uint64_t>(rows),
                                               static_cast<std::uint64_t>(columns), stride));
  return Layout(layout);
}

// cuBLASLt with its workspace on one device, and the algorithms chosen so far. One a thread and device, so that no call
// needs a lock. Concurrent streams of one thread would share the workspace: a thread uses one stream at a time.
class Blas {
 public:
  Blas() : workspace_(Space::device, workspace_bytes, "cuBLAS's workspace") {
    cublasLtHandle_t handle = nullptr;
    PHOTON_BLAS_CHECK(cublasLtCreate(&handle));
    library_.reset(handle);
  }

  static Blas& current() {
    thread_local std::map<int, std::unique_ptr<Blas>> by_device;
    int device = 0;
    PHOTON_CUDA_CHECK(cudaGetDevice(&device));
    std::unique_ptr<Blas>& blas = by_device[device];
    if (!blas) blas = std::make_unique<Blas>();
    return *blas;
  }

  void multiply(const Context& ctx, const Product& p) {
    const std::int64_t m = p.c.size(0);
    const std::int64_t n = p.c.size(1);
    const std::int64_t k = p.a.size(p.a_transposed ? 0 : 1);
    // cuBLAS stores columns: a row-major c = a b is c^T = b^T a^T there, with the operands' names exchanged.
    Operation operation = make_operation(p);
    const std::int64_t beta_count = p.write == Write::accumulate ? 1 : 0;
    const ProductKey key = {p.row_independent ? 0 : m,
                            n,
                            k,
                            row_stride(p.a),
                            row_stride(p.b),
                            row_stride(p.c),
                            static_cast<std::int64_t>(p.a.dtype()),
                            static_cast<std::int64_t>(p.c.dtype()),
                            (p.a_transposed ? 1 : 0) + (p.b_transposed ? 2 : 0),
                            alignment_of(p.a.data()),
                            alignment_of(p.b.data()),
                            alignment_of(p.c.data()),
                            beta_count};
    auto found = algorithms_.find(key);
    if (found == algorithms_.end()) {
      found = algorithms_.emplace(key, choose(p, operation, p.row_independent ? canonical_rows : m, n, k)).first;
    }
    const Layouts layouts = make_layouts(p, m, n, k);
    const float alpha = 1.0F;
    const auto beta = static_cast<float>(beta_count);
    PHOTON_BLAS_CHECK(cublasLtMatmul(library_.get(), operation.get(), &alpha, p.b.data(), layouts.b.get(), p.a.data(),
                                     layouts.a.get(), &beta, p.c.data(), layouts.c.get(), p.c.data(), layouts.c.get(),
                                     &found->second, workspace_.data(), static_cast<std::size_t>(workspace_bytes),
                                     static_cast<cudaStream_t>(ctx.stream.handle())));
  }

 private:
  struct Layouts {
    Layout a;
    Layout b;
    Layout c;
  };

  static Operation make_operation(const Product& p) {
    cublasLtMatmulDesc_t description = nullptr;
    PHOTON_BLAS_CHECK(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    Operation operation(description);
    const cublasOperation_t first = p.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = p.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    PHOTON_BLAS_CHECK(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof(first)));
    PHOTON_BLAS_CHECK(
        cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof(second)));
    return operation;
  }

  static Layouts make_layouts(const Product& p, std::int64_t m, std::int64_t n, std::int64_t k) {
    Layouts layouts;
    layouts.a = make_layout(p.a.dtype(), p.a_transposed ? m : k, p.a_transposed ? k : m, row_stride(p.a));
    layouts.b = make_layout(p.b.dtype(), p.b_transposed ? k : n, p.b_transposed ? n : k, row_stride(p.b));
    layouts.c = make_layout(p.c.dtype(), n, m, row_stride(p.c));
    return layouts;
  }

  cublasLtMatmulAlgo_t choose(const Product& p, const Operation& operation, std::int64_t m, std::int64_t n,
                              std::int64_t k) {
    cublasLtMatmulPreference_t raw = nullptr;
    PHOTON_BLAS_CHECK(cublasLtMatmulPreferenceCreate(&raw));
    const Preference preference(raw);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      PHOTON_BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(raw, attribute, &value, sizeof(value)));
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(workspace_bytes));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b.data()));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a.data()));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.c.data()));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.c.data()));
    if (p.row_independent) {
      // A sum split among blocks may be split by how many rows there are.
      set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));
    }
    const Layouts layouts = make_layouts(p, m, n, k);
    cublasLtMatmulHeuristicResult_t result{};
    int num_results = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(library_.get(), operation.get(), layouts.b.get(), layouts.a.get(),
                                       layouts.c.get(), layouts.c.get(), raw, 1, &result, &num_results);
    if (status != CUBLAS_STATUS_SUCCESS || num_results == 0) {
      throw Error(
          fmt::format("cuBLASLt has no algorithm for a {} product of {} x {} x {}", name_of(p.a.dtype()), m, n, k),
          cublasLtGetStatusString(status), "please report this as a defect in photon");
    }
    return result.algo;
  }

  Buffer workspace_;
  Library library_;
  std::map<ProductKey, cublasLtMatmulAlgo_t> algorithms_;
};

}  // namespace

void multiply(const Context& ctx, const Product& p) {
  PHOTON_EXPECT(p.a.space() == Space::device && p.b.space() == Space::device && p.c.space() == Space::device,
                "a CUDA matrix product of tensors in host memory");
  PHOTON_EXPECT(p.a.dtype() == p.b.dtype() && (p.a.dtype() == DType::f32 || p.a.dtype() == DType::bf16) &&
                    (p.c.dtype() == p.a.dtype() || p.c.dtype() == DType::f32),
                "a CUDA matrix product of {} and {} into {}", name_of(p.a.dtype()), name_of(p.b.dtype()),
                name_of(p.c.dtype()));
  PHOTON_EXPECT(p.a.rank() == 2 && p.b.rank() == 2 && p.c.rank() == 2,
                "a CUDA matrix product of tensors that are not matrices");
  const std::int64_t k = p.a.size(p.a_transposed ? 0 : 1);
  PHOTON_EXPECT(k == p.b.size(p.b_transposed ? 1 : 0) && p.c.size(0) == p.a.size(p.a_transposed ? 1 : 0) &&
                    p.c.size(1) == p.b.size(p.b_transposed ? 0 : 1),
                "a matrix product of {} and {} into {}", p.a.shape().str(), p.b.shape().str(), p.c.shape().str());
  if (p.c.numel() == 0) return;
  if (k == 0) {  // an empty sum
    if (p.write == Write::accumulate) return;
    PHOTON_CUDA_CHECK(cudaMemset2DAsync(p.c.data(), static_cast<std::size_t>(row_stride(p.c)) * size_of(p.c.dtype()), 0,
                                        static_cast<std::size_t>(p.c.size(1)) * size_of(p.c.dtype()),
                                        static_cast<std::size_t>(p.c.size(0)),
                                        static_cast<cudaStream_t>(ctx.stream.handle())));
    return;
  }
  Blas::current().multiply(ctx, p);
}

}  // namespace photon::cuda
