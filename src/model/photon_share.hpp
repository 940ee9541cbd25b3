// What one rank holds of a PHOTON that decodes on several: some layers' weights and nothing else.
#pragma once

#include "model/photon_stage.hpp"

namespace photon {

class PhotonShare {
 public:
  // Zero weights, to be read only: given by Parameters::assign() or initialize(). `layers`: coarse_layers() or
  // chunk_layers(). `space` and `dtype` as make_model() takes them.
  PhotonShare(const ModelConfig& config, const LayerRange& layers, Space space, DType dtype = DType::f32);
  PhotonShare(const PhotonShare&) = delete;
  PhotonShare& operator=(const PhotonShare&) = delete;

  const ModelConfig& config() const { return config_; }
  DType dtype() const { return dtype_; }
  Parameters& parameters() { return parameters_; }
  const Parameters& parameters() const { return parameters_; }
  const PhotonTensors& tensors() const { return tensors_; }

 private:
  ModelConfig config_;
  DType dtype_;
  Parameters parameters_;
  PhotonTensors tensors_;
};

}  // namespace photon
