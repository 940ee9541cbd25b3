// A training run's whole configuration: the typed form of a YAML file (docs/configuration.md is generated from the same
// table of keys).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/model_config.hpp"
#include "support/rec_distance.hpp"

namespace photon {

struct DataFile {
  std::string file;     // written by `photon prepare`
  double weight = 1.0;  // relative share of the samples of an epoch-less mixture

  bool operator==(const DataFile&) const = default;
};

struct DataConfig {
  std::vector<DataFile> train;
  std::vector<DataFile> val;
  std::string document_mask = "none";  // reserved: only "none"

  bool operator==(const DataConfig&) const = default;
};

enum class Schedule { cosine, wsd };
enum class Precision { fp32, bf16, fp8 };
enum class Device { automatic, cpu, cuda };
enum class Recompute { automatic, none, layers };
enum class SplitBackward { automatic, on, off };

struct TrainConfig {
  std::int64_t steps = 1000;
  std::int64_t batch_size = 16;         // sequences a step over all ranks
  std::int64_t sequence_length = 1024;  // tokens
  double learning_rate = 3e-4;
  double min_learning_rate = 3e-5;
  std::int64_t warmup_steps = 100;
  Schedule schedule = Schedule::cosine;
  double decay_fraction = 0.2;  // wsd: share of the steps spent decaying at the end
  double weight_decay = 0.1;    // matrices only
  double beta1 = 0.9;
  double beta2 = 0.95;
  double adam_eps = 1e-8;
  double grad_clip = 1.0;  // global norm; 0 = off
  double alpha = 0.3;      // weight of the recursive loss
  RecDistance rec_distance = RecDistance::cosine;
  bool rec_stop_gradient = true;
  Device device = Device::automatic;  // automatic: the GPU where there is one
  Precision precision = Precision::fp32;
  std::uint64_t seed = 0;
  std::int64_t eval_every = 0;            // steps; 0 = only at the end
  std::int64_t eval_sequences = 0;        // sequences of the validation file an evaluation reads; 0 = all
  std::int64_t checkpoint_every = 0;      // steps; 0 = only at the end (and when stopped)
  std::int64_t keep_checkpoints = 3;      // the newest K stay; 0 = all
  std::int64_t max_bad_steps = 10;        // non-finite steps in a row that stop the run
  double spike_factor = 0;                // steps with so many times the usual gradient norm make no update; 0 = off
  std::int64_t check_replicas_every = 0;  // steps between comparisons of weights over ranks; 0 = off
  std::int64_t log_every = 0;             // steps between plain console lines; 0 = a line every 10 s
  bool deterministic = false;             // results independent of thread count, at a cost (docs/numerics.md)

  bool operator==(const TrainConfig&) const = default;
};

struct ParallelConfig {
  std::int64_t data = 0;  // replicas; 0 = as many as the ranks allow
  std::int64_t stages = 1;
  std::int64_t shards = 1;           // ranks that share the decoders of the last stage
  std::string cut{};                 // layers that begin stages 2, 3, ...: "decoder2,decoder1.3"; empty = balanced
  std::int64_t microbatch_size = 0;  // sequences a forward/backward on one replica; 0 = chosen from memory
  std::int64_t zero = 0;             // 1: ranks that hold the same tensors share the optimizer's moments
  // What the backward computes again instead of keeping it; automatic: layers where keeping it does not fit.
  Recompute recompute = Recompute::automatic;
  // Whether stages pass gradients on before they compute those of their weights; automatic: where that is predicted to
  // be faster and fits.
  SplitBackward split_backward = SplitBackward::automatic;
  // How long a rank waits for others before it gives up, seconds.
  std::int64_t setup_deadline = 900;
  std::int64_t step_deadline = 900;  // a step, or an evaluation
  std::int64_t save_deadline = 3600;

  bool operator==(const ParallelConfig&) const = default;
};

struct RunConfig {
  ModelConfig model;
  DataConfig data;
  TrainConfig train;
  ParallelConfig parallel;

  bool operator==(const RunConfig&) const = default;
};

// The word for it in a configuration: "auto", "cpu", "cuda".
const char* name_of(Device device);
const char* name_of(Precision precision);  // "fp32", "bf16", "fp8"
const char* name_of(Recompute recompute);  // "auto", "none", "layers"
const char* name_of(SplitBackward split);  // "auto", "on", "off"

// Reads `file` (YAML), applies `overrides` ("train.steps=10") in order, resolves presets and defaults, validates.
// Errors: InputError with the file, the line where known, the key, and for an unknown key the nearest known one.
RunConfig load_run_config(const std::string& file, const std::vector<std::string>& overrides);

// The same from YAML text; `where` stands for the file's name in messages.
RunConfig parse_run_config(const std::string& yaml, const std::string& where,
                           const std::vector<std::string>& overrides);

// Only the `model` section (which may start from a preset) is needed and checked; other known sections are allowed.
ModelConfig load_model_section(const std::string& file, const std::vector<std::string>& overrides);

// The resolved configuration as YAML, every key written; load_run_config reads it back to an equal one.
std::string to_yaml(const RunConfig& config);

// docs/configuration.md: every key with type, unit, default and meaning, from the table that the reader uses.
std::string configuration_reference();

}  // namespace photon
