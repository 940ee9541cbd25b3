// Weights on a GPU that are only read, and a bound of its memory.
#include "model/parameters.hpp"

#include <gtest/gtest.h>

#include "../model/shapes.hpp"
#include "support/error.hpp"
#include "tensor/half.hpp"

namespace photon {
namespace {

std::vector<float> values_of(const ConstTensorView& view) {
  const Tensor here(Space::host, view.dtype(), view.shape());
  copy(view, here.view());
  std::vector<float> values;
  for (std::int64_t i = 0; i < view.numel(); ++i) {
    values.push_back(view.dtype() == DType::f32 ? here.host<float>()[i] : to_float(here.host<bfloat16>()[i]));
  }
  return values;
}

// Fresh weights, and those taken over from the host, are the host's, rounded.
TEST(CudaParameters, ThatAreOnlyReadHaveTheHostsValues) {
  for (const testing::NamedConfig& shape : testing::all_shapes()) {
    Parameters host(shape.config, Space::host);
    initialize(host, 3);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Parameters fresh = Parameters::read_only(host.specs(), Space::device, dtype);
      initialize(fresh, 3);
      Parameters taken = Parameters::read_only(host.specs(), Space::device, dtype);
      taken.assign(host);
      Parameters trained(host.specs(), Space::device);
      trained.make_working_copy(dtype);
      initialize(trained, 3);
      for (const ParameterSpec& spec : host.specs()) {
        std::vector<float> expected = values_of(host.view(spec.name));
        if (spec.shape.size() == 1) {
          EXPECT_EQ(values_of(fresh.view(spec.name)), expected) << shape.name << " " << spec.name;
        }
        EXPECT_EQ(values_of(trained.view(spec.name)), expected) << shape.name << " " << spec.name;
        if (dtype == DType::bf16)
          for (float& value : expected) value = to_float(to_bfloat16(value));
        for (const Parameters* one : {&fresh, &taken, &trained})
          EXPECT_EQ(values_of(one->working_view(spec.name)), expected) << shape.name << " " << spec.name;
      }
    }
  }
}

TEST(DeviceMemory, ALimitIsKept) {
  const std::int64_t used = device::used_bytes();
  constexpr std::int64_t mebibyte = std::int64_t{1} << 20;
  device::limit_memory(used + 64 * mebibyte);
  EXPECT_LE(device::free_bytes(), 64 * mebibyte);
  { const Tensor fits(Space::device, DType::u8, {16 * mebibyte}, "what fits"); }
  try {
    const Tensor large(Space::device, DType::u8, {256 * mebibyte}, "what does not");
    ADD_FAILURE() << "256 MiB beyond a limit of 64 were given";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("--memory-limit"), std::string::npos) << error.what();
  }
  device::limit_memory(used / 2);
  EXPECT_EQ(device::free_bytes(), 0);
  device::limit_memory(0);
  EXPECT_GT(device::free_bytes(), 64 * mebibyte);
  { const Tensor large(Space::device, DType::u8, {256 * mebibyte}, "what fits without a limit"); }
}

}  // namespace
}  // namespace photon
