#include "model/photon_share.hpp"

namespace photon {

PhotonShare::PhotonShare(const ModelConfig& config, const LayerRange& layers, Space space, DType dtype)
    : config_(config), dtype_(dtype), parameters_(hosted_parameters(config, layers), space, "this rank's weights") {
  parameters_.make_working_copy(dtype, Masters::norms);
  tensors_ = PhotonStage(config_, layers, dtype).bind(parameters_);
}

}  // namespace photon
