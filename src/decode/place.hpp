// Where a model computes: the host or a GPU, in which precision, with the stream and the workspace that ops need there.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "config/model_config.hpp"
#include "tensor/context.hpp"

namespace photon {

class Place {
 public:
  // device: "auto" (the GPU where this build and machine have one) | "cpu" | "cuda"; precision: "auto" (bf16 on a GPU,
  // fp32 on the host) | "fp32" | "bf16". Errors: InputError for words unknown, a GPU that is not there, and bf16 on the
  // host. gpu: which one of those that this process sees.
  Place(const std::string& device, const std::string& precision, Numerics numerics, int gpu = 0);
  ~Place();
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  // From now on this process behaves as if there were no more memory than so many bytes: on a GPU nothing beyond is
  // taken, weights included; on the host caches are bounded by what the process does not hold yet. 0: no limit.
  void limit_memory(std::int64_t bytes);
  std::int64_t memory_limit() const { return memory_limit_; }
  // Taken on the GPU, by whomever; on the host what this process holds.
  std::int64_t used_bytes() const;

  const Context& context() const { return context_; }
  Space space() const { return context_.space; }
  DType dtype() const { return dtype_; }
  std::string device_name() const;  // "cpu", or the GPU's name
  const char* precision_name() const { return dtype_ == DType::bf16 ? "bf16" : "fp32"; }

 private:
  Context context_;
  DType dtype_ = DType::f32;
  int gpu_ = 0;
  std::int64_t memory_limit_ = 0;
  Arena scratch_;
};

// What an engine may take at a place once the model is there.
struct CacheMemory {
  std::int64_t bytes = 0;           // for caches
  std::int64_t prefill_tokens = 0;  // EngineOptions; 0: the source's
  std::int64_t max_chunks = 0;
};
// On the host half of what is free, on a GPU what is free but for what encoding prompts and, where `chunks` of RecGen
// are decoded here, a call of these needs beside them; never beyond the place's limit. Processes on this host that ask
// at the same time divide the host's.
CacheMemory cache_memory(const Place& place, const ModelConfig& config, bool chunks, int num_processes = 1);

}  // namespace photon
