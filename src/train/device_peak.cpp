#include "train/device_peak.hpp"

namespace photon {

DevicePeak device_peak(const std::string& device, Precision precision) {
  // Vendors' data sheets, dense products. A card's name tells its form: HBM3 is the SXM module.
  constexpr const char* h100 = "NVIDIA H100 SXM data sheet, dense";
  constexpr const char* h200 = "NVIDIA H200 SXM data sheet, dense";
  const bool is_h100 = device.find("H100 80GB HBM3") != std::string::npos;
  const bool is_h200 = device.find("H200") != std::string::npos;
  if (!is_h100 && !is_h200) return {};
  const char* const source = is_h100 ? h100 : h200;
  switch (precision) {
    case Precision::fp32:
      return {66.9e12, source};
    case Precision::bf16:
      return {989.4e12, source};
    case Precision::fp8:
      return {1978.9e12, source};
  }
  return {};
}

}  // namespace photon
