#include "model/photon_share.hpp"

namespace photon {

PhotonShare::PhotonShare(const ModelConfig& config, const LayerRange& layers, Space space, DType dtype)
    : config_(config),
      dtype_(dtype),
      parameters_(Parameters::read_only(hosted_parameters(config, layers), space, dtype, "this rank's weights")) {
  tensors_ = PhotonStage(config_, layers, dtype).bind(parameters_);
}

}  // namespace photon
