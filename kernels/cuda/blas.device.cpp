#include "kernels/cuda/blas.hpp"

#include <array>
#include <bit>
#include <map>

#include "kernels/cuda/blas_lt.hpp"
#include "kernels/cuda/blas_measure.hpp"
#include "kernels/product_choices.hpp"
#include "tensor/cuda_check.hpp"

namespace photon::cuda {
namespace {

constexpr std::int64_t workspace_bytes = std::int64_t{32} << 20;  // what cuBLAS recommends for Hopper
constexpr std::int64_t canonical_rows = 512;  // the M for which row-independent algorithms are chosen
constexpr int num_candidates = 12;            // heuristics that are measured

// A product in cuBLASLt's types.
struct Call {
  ConstTensorView a;
  bool a_transposed = false;
  cudaDataType_t a_type = CUDA_R_32F;
  const void* a_scale = nullptr;
  ConstTensorView b;
  bool b_transposed = false;
  cudaDataType_t b_type = CUDA_R_32F;
  const void* b_scale = nullptr;
  TensorView c;
  cudaDataType_t c_type = CUDA_R_32F;
  ConstTensorView added;  // empty: nothing
  bool fast = false;
  bool row_independent = false;
  bool measured = false;

  std::int64_t m() const { return c.size(0); }
  std::int64_t n() const { return c.size(1); }
  std::int64_t k() const { return a.size(a_transposed ? 0 : 1); }
  bool in_place() const { return added && added.data() == c.data(); }
};

// All that the choice of an algorithm depends on: shapes, row strides, types, alignments, transpositions, what is
// added.
using ProductKey = std::array<std::int64_t, 16>;

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF;
}

std::string_view name_of_type(std::int64_t type) {
  switch (static_cast<cudaDataType_t>(type)) {
    case CUDA_R_32F:
      return "f32";
    case CUDA_R_16BF:
      return "bf16";
    case CUDA_R_8F_E4M3:
      return "e4m3";
    default:
      return "e5m2";
  }
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

// The largest of the Ms that share a measured choice: exact up to 16, then in steps of an eighth of their size.
std::int64_t row_class(std::int64_t m) {
  if (m <= 16) return m;
  const std::int64_t step = std::int64_t{1} << (std::bit_width(static_cast<std::uint64_t>(m - 1)) - 4);
  return (m + step - 1) / step * step;
}

Layout make_layout(cudaDataType_t type, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  PHOTON_BLAS_CHECK(cublasLtMatrixLayoutCreate(&layout, type, static_cast<std::uint64_t>(rows),
                                               static_cast<std::uint64_t>(columns), stride));
  return Layout(layout);
}

template <class T>
void set(const Operation& operation, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  PHOTON_BLAS_CHECK(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof(value)));
}

// cuBLAS stores columns: a row-major c = a b is c^T = b^T a^T there, with the operands' names exchanged.
Operation make_operation(const Call& p) {
  cublasLtMatmulDesc_t description = nullptr;
  PHOTON_BLAS_CHECK(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  Operation operation(description);
  set(operation, CUBLASLT_MATMUL_DESC_TRANSA, p.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(operation, CUBLASLT_MATMUL_DESC_TRANSB, p.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (p.a_scale != nullptr) {
    set(operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.b_scale);
    set(operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.a_scale);
    set(operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM, static_cast<std::int8_t>(p.fast ? 1 : 0));
  }
  return operation;
}

struct Layouts {
  Layout a;
  Layout b;
  Layout c;
  Layout added;
};
Layouts make_layouts(const Call& p, std::int64_t m) {
  return {make_layout(p.a_type, p.a_transposed ? m : p.k(), p.a_transposed ? p.k() : m, row_stride(p.a)),
          make_layout(p.b_type, p.b_transposed ? p.k() : p.n(), p.b_transposed ? p.n() : p.k(), row_stride(p.b)),
          make_layout(p.c_type, p.n(), m, row_stride(p.c)),
          make_layout(p.c_type, p.n(), m, row_stride(p.added ? p.added : p.c))};
}

ProductKey key_of(const Call& p, std::int64_t m) {
  return {m,
          p.n(),
          p.k(),
          row_stride(p.a),
          row_stride(p.b),
          row_stride(p.c),
          p.a_type,
          p.b_type,
          p.c_type,
          (p.a_transposed ? 1 : 0) + (p.b_transposed ? 2 : 0),
          alignment_of(p.a.data()),
          alignment_of(p.b.data()),
          std::min(alignment_of(p.c.data()), alignment_of(p.added ? p.added.data() : p.c.data())),
          p.added ? 1 : 0,
          p.fast ? 1 : 0,
          p.added && !p.in_place() ? row_stride(p.added) : 0};
}

// The same as text, for product_choices.hpp.
std::string text_of(const ProductKey& key) {
  return fmt::format("m={} n={} k={} strides={},{},{} types={},{},{} transposed={} aligned={},{},{} beta={}{}{}",
                     key[0], key[1], key[2], key[3], key[4], key[5], name_of_type(key[6]), name_of_type(key[7]),
                     name_of_type(key[8]), key[9], key[10], key[11], key[12], key[13], key[14] != 0 ? " fast" : "",
                     key[15] != 0 ? fmt::format(" added={}", key[15]) : "");
}

bool under_capture(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  PHOTON_CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

// cuBLASLt with its workspace on one device, and the algorithms chosen so far. One a thread and device, so that no call
// needs a lock. Concurrent streams of one thread would share the workspace: a thread uses one stream at a time.
class Blas {
 public:
  explicit Blas(int device)
      : workspace_(Space::device, workspace_bytes, "cuBLAS's workspace"),
        machine_(fmt::format("{}, cuBLASLt {}", device::name(device), cublasLtGetVersion())) {
    cublasLtHandle_t handle = nullptr;
    PHOTON_BLAS_CHECK(cublasLtCreate(&handle));
    library_.reset(handle);
  }

  static Blas& current() {
    thread_local std::map<int, std::unique_ptr<Blas>> by_device;
    int device = 0;
    PHOTON_CUDA_CHECK(cudaGetDevice(&device));
    std::unique_ptr<Blas>& blas = by_device[device];
    if (!blas) blas = std::make_unique<Blas>(device);
    return *blas;
  }

  void multiply(const Context& ctx, const Call& p) {
    const Operation operation = make_operation(p);
    const Layouts layouts = make_layouts(p, p.m());
    const ProductKey key = key_of(p, p.row_independent ? 0 : p.m());
    auto found = algorithms_[p.measured ? 1 : 0].find(key);
    cublasLtMatmulAlgo_t algorithm;
    if (found != algorithms_[p.measured ? 1 : 0].end()) {
      algorithm = found->second;
    } else if (!p.measured) {
      const Layouts canonical = make_layouts(p, p.row_independent ? canonical_rows : p.m());
      algorithm = candidates(p, operation, canonical, 1).front();
      algorithms_[0].emplace(key, algorithm);
    } else {
      bool lasting = true;
      algorithm = choose(ctx, p, operation, layouts, lasting);
      if (lasting) algorithms_[1].emplace(key, algorithm);
    }
    PHOTON_BLAS_CHECK(run(ctx, p, operation, layouts, algorithm, p.c.data()));
  }

 private:
  cublasStatus_t run(const Context& ctx, const Call& p, const Operation& operation, const Layouts& layouts,
                     const cublasLtMatmulAlgo_t& algorithm, void* result) {
    const float alpha = 1.0F;
    const float beta = p.added ? 1.0F : 0.0F;
    return cublasLtMatmul(library_.get(), operation.get(), &alpha, p.b.data(), layouts.b.get(), p.a.data(),
                          layouts.a.get(), &beta, p.added ? p.added.data() : p.c.data(), layouts.added.get(), result,
                          layouts.c.get(), &algorithm, workspace_.data(), static_cast<std::size_t>(workspace_bytes),
                          static_cast<cudaStream_t>(ctx.stream.handle()));
  }

  // What this process or the run's file has chosen for products of this class, or what measurement chooses now. A
  // stream under capture cannot measure: `lasting` is false then, and the next call outside asks again.
  cublasLtMatmulAlgo_t choose(const Context& ctx, const Call& p, const Operation& operation, const Layouts& layouts,
                              bool& lasting) {
    const std::string product = text_of(key_of(p, row_class(p.m())));
    std::optional<ProductChoice> choice = find_product_choice(machine_, product);
    if (!choice) {
      std::vector<cublasLtMatmulAlgo_t> all = candidates(p, operation, layouts, num_candidates);
      lasting = !under_capture(static_cast<cudaStream_t>(ctx.stream.handle()));
      if (!lasting) return all.front();
      const std::int64_t result_bytes =
          ((p.m() - 1) * row_stride(p.c) + p.n()) * static_cast<std::int64_t>(size_of(p.c.dtype()));
      const auto once = [&](const cublasLtMatmulAlgo_t& algorithm, void* result) {
        return run(ctx, p, operation, layouts, algorithm, result);
      };
      const Measured best = fastest_algorithm(ctx, all, once, result_bytes, p.a.bytes() + p.b.bytes() + result_bytes);
      if (best.microseconds == 0) return best.algorithm;  // nothing was measured, so there is nothing to keep
      choice = {std::bit_cast<ProductAlgorithm>(best.algorithm), best.microseconds};
      keep_product_choice(machine_, product, *choice);
    }
    // It was measured for another M of its class, or stored: ask whether it can do this one.
    const auto algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(choice->algorithm);
    cublasLtMatmulHeuristicResult_t result{};
    const bool good =
        cublasLtMatmulAlgoCheck(library_.get(), operation.get(), layouts.b.get(), layouts.a.get(), layouts.added.get(),
                                layouts.c.get(), &algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
        result.workspaceSize <= static_cast<std::size_t>(workspace_bytes);
    return good ? algorithm : candidates(p, operation, layouts, 1).front();
  }

  // The library's heuristics, best guess first.
  std::vector<cublasLtMatmulAlgo_t> candidates(const Call& p, const Operation& operation, const Layouts& layouts,
                                               int most) {
    cublasLtMatmulPreference_t raw = nullptr;
    PHOTON_BLAS_CHECK(cublasLtMatmulPreferenceCreate(&raw));
    const Preference preference(raw);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      PHOTON_BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(raw, attribute, &value, sizeof(value)));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(workspace_bytes));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b.data()));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a.data()));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.added ? p.added.data() : p.c.data()));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.c.data()));
    if (p.row_independent) {
      // A sum split among blocks may be split by how many rows there are.
      prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));
    }
    std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<std::size_t>(most));
    int num_results = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(library_.get(), operation.get(), layouts.b.get(), layouts.a.get(),
                                       layouts.added.get(), layouts.c.get(), raw, most, results.data(), &num_results);
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    for (int i = 0; i < num_results; ++i) {
      const cublasLtMatmulHeuristicResult_t& result = results[static_cast<std::size_t>(i)];
      if (result.state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(result.algo);
    }
    if (status != CUBLAS_STATUS_SUCCESS || algorithms.empty()) {
      throw Error(fmt::format("cuBLASLt has no algorithm for the product {}", text_of(key_of(p, p.m()))),
                  cublasLtGetStatusString(status), "please report this as a defect in photon");
    }
    return algorithms;
  }

  Buffer workspace_;
  std::string machine_;
  Library library_;
  std::array<std::map<ProductKey, cublasLtMatmulAlgo_t>, 2> algorithms_;  // by heuristic, by measurement
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
  PHOTON_EXPECT(!p.added || (p.added.shape() == p.c.shape() && p.added.dtype() == p.c.dtype()),
                "a matrix product into {} {} that is added to {} {}", name_of(p.c.dtype()), p.c.shape().str(),
                name_of(p.added.dtype()), p.added.shape().str());
  if (p.c.numel() == 0) return;
  if (k == 0) {  // an empty sum
    const auto stream = static_cast<cudaStream_t>(ctx.stream.handle());
    const auto bytes = [&](std::int64_t elements) { return static_cast<std::size_t>(elements) * size_of(p.c.dtype()); };
    if (p.added) {
      if (p.added.data() == p.c.data()) return;
      PHOTON_CUDA_CHECK(cudaMemcpy2DAsync(p.c.data(), bytes(row_stride(p.c)), p.added.data(),
                                          bytes(row_stride(p.added)), bytes(p.c.size(1)),
                                          static_cast<std::size_t>(p.c.size(0)), cudaMemcpyDeviceToDevice, stream));
      return;
    }
    PHOTON_CUDA_CHECK(cudaMemset2DAsync(p.c.data(), bytes(row_stride(p.c)), 0, bytes(p.c.size(1)),
                                        static_cast<std::size_t>(p.c.size(0)), stream));
    return;
  }
  Blas::current().multiply(ctx, {.a = p.a,
                                 .a_transposed = p.a_transposed,
                                 .a_type = type_of(p.a.dtype()),
                                 .b = p.b,
                                 .b_transposed = p.b_transposed,
                                 .b_type = type_of(p.b.dtype()),
                                 .c = p.c,
                                 .c_type = type_of(p.c.dtype()),
                                 .added = p.added,
                                 .row_independent = p.row_independent,
                                 .measured = ctx.numerics == Numerics::tuned && !p.row_independent});
}

void multiply(const Context& ctx, const Product8& p) {
  const auto on_device = [](const ConstTensorView& x) { return x.space() == Space::device; };
  PHOTON_EXPECT(on_device(p.a) && on_device(p.b) && on_device(p.c) && on_device(p.a_scale) && on_device(p.b_scale),
                "a CUDA matrix product of tensors in host memory");
  PHOTON_EXPECT(p.a.dtype() == DType::u8 && p.b.dtype() == DType::u8 && p.a_scale.dtype() == DType::f32 &&
                    p.b_scale.dtype() == DType::f32 && (p.c.dtype() == DType::bf16 || p.c.dtype() == DType::f32),
                "an 8-bit matrix product of {} and {} into {}", name_of(p.a.dtype()), name_of(p.b.dtype()),
                name_of(p.c.dtype()));
  PHOTON_EXPECT(p.a.rank() == 2 && p.b.rank() == 2 && p.c.rank() == 2 && p.a.size(1) == p.b.size(1) &&
                    p.c.size(0) == p.a.size(0) && p.c.size(1) == p.b.size(0) && p.a.size(1) % 16 == 0,
                "an 8-bit matrix product of {} and {} into {}", p.a.shape().str(), p.b.shape().str(),
                p.c.shape().str());
  PHOTON_EXPECT(alignment_of(p.a_scale.data()) == 16 && alignment_of(p.b_scale.data()) == 16,
                "scales of an 8-bit matrix product that are not aligned to 16 bytes");
  PHOTON_EXPECT(p.a_format == Float8::e4m3 || p.b_format == Float8::e4m3, "a product of two e5m2 matrices");
  if (p.c.numel() == 0) return;
  const auto type = [](Float8 format) { return format == Float8::e4m3 ? CUDA_R_8F_E4M3 : CUDA_R_8F_E5M2; };
  Blas::current().multiply(ctx, {.a = p.a,
                                 .a_type = type(p.a_format),
                                 .a_scale = p.a_scale.data(),
                                 .b = p.b,
                                 .b_transposed = true,
                                 .b_type = type(p.b_format),
                                 .b_scale = p.b_scale.data(),
                                 .c = p.c,
                                 .c_type = type_of(p.c.dtype()),
                                 .added = p.added,
                                 .fast = p.fast,
                                 .measured = ctx.numerics == Numerics::tuned});
}

}  // namespace photon::cuda
