// Training checkpoints: <run>/checkpoints/step-N/, an HDF5 file a rank, published by a manifest that is written last
// (docs/formats.md). Tensors are stored as pieces of logical tensors, so that any layout of ranks reads what any other
// wrote.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/weights.hpp"
#include "config/model_config.hpp"
#include "model/parameters.hpp"

namespace photon {

// What a run must remember beside its tensors.
struct TrainState {
  std::int64_t step = 0;           // steps done
  std::int64_t samples = 0;        // sequences consumed: the data cursor
  std::int64_t tokens = 0;         // tokens trained on
  std::int64_t skipped_steps = 0;  // steps without an update, e.g. for a gradient that was not finite
  std::string extra_json = "{}";   // an object of the caller's own
};

// A run of elements of a logical tensor, in row-major order.
template <class View>
struct BasicPiece {
  std::string name;                 // "<group>/<tensor>", e.g. "parameters/embed.weight"
  std::vector<std::int64_t> shape;  // of the whole logical tensor
  std::int64_t offset = 0;          // first element of the run
  View data;                        // contiguous, host, fp32
};
using TensorPiece = BasicPiece<ConstTensorView>;
using TensorTarget = BasicPiece<TensorView>;

// Groups a checkpoint of AdamW holds.
inline constexpr const char* parameter_group = "parameters";
inline constexpr const char* first_moment_group = "adam_m";
inline constexpr const char* second_moment_group = "adam_v";

// All tensors of a Parameters-like buffer, whole.
std::vector<TensorPiece> pieces_of(const std::string& group, const Parameters& values);
std::vector<TensorTarget> targets_of(const std::string& group, const Parameters& values);

struct SaveOptions {
  std::int64_t keep = 3;                 // newest checkpoints that stay; >= 1
  std::filesystem::path tokenizer_file;  // copied into the checkpoint when the model names one
  int rank = 0;
  int num_ranks = 1;
  // Collective: true when it is given true on every rank. One rank alone needs none.
  std::function<bool(bool)> all_succeed;
};

// One save by hand: its parts in the order of the functions, none of which sends a message, so that a thread beside the
// training may run them. Whoever calls them tells the other ranks when a part is done.
class CheckpointSave {
 public:
  // `pieces` stay as they are until the save is over. options.all_succeed is not used.
  CheckpointSave(std::filesystem::path run, ModelConfig config, TrainState state, std::vector<TensorPiece> pieces,
                 SaveOptions options);

  const std::filesystem::path& folder() const { return final_; }  // <run>/checkpoints/step-N
  void prepare();                                                 // rank 0, before any rank writes
  void write_part();                                              // every rank
  void commit();            // rank 0, once every rank has written: the checkpoint is valid when it returns
  void abandon() noexcept;  // rank 0, instead of commit(): removes what was written

 private:
  void remove_old();

  std::filesystem::path run_;
  ModelConfig config_;
  TrainState state_;
  std::vector<TensorPiece> pieces_;
  SaveOptions options_;
  std::filesystem::path folder_;     // <run>/checkpoints
  std::filesystem::path final_;      // .../step-N
  std::filesystem::path temporary_;  // .../step-N.tmp
};

// Saves `pieces` (what this rank holds; together the ranks must hold every element once) as
// <run>/checkpoints/step-<step>. Collective over the ranks, which share the file system. Order: tensors, fsync,
// manifest, fsync, rename, LATEST by rename, then the oldest beyond `keep` go. A checkpoint of the same step is
// replaced; checkpoints of later steps, which this run did not continue from, are renamed to "step-N.superseded", with
// a warning. Returns the folder. Errors: Error on every rank when any of them fails, e.g. on a full disk; the partial
// folder is removed and earlier checkpoints stay, so that training may go on. Fault points: "checkpoint.begin",
// "checkpoint.data", "checkpoint.manifest", "checkpoint.rename", "checkpoint.latest", "checkpoint.trash",
// "checkpoint.done".
std::filesystem::path save_checkpoint(const std::filesystem::path& run, const ModelConfig& config,
                                      const TrainState& state, const std::vector<TensorPiece>& pieces,
                                      const SaveOptions& options = {});

// The step folders of a run, newest first, complete or not.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& run);

// A checkpoint that cannot be trusted: a file is missing, cut short or damaged.
class DamagedCheckpoint : public Error {
 public:
  using Error::Error;
};

struct CheckpointInfo {
  ModelConfig config;
  TrainState state;
  std::int64_t num_ranks = 0;
};

// The manifest alone. Errors: DamagedCheckpoint; InputError for a newer format_version.
CheckpointInfo read_checkpoint_info(const std::filesystem::path& folder);

// Fills the targets, whichever ranks and pieces the tensors were stored in, checking the checksum of every piece it
// reads. Errors: DamagedCheckpoint; InputError for a tensor that the checkpoint does not hold or holds in another
// shape.
void read_checkpoint_tensors(const std::filesystem::path& folder, const std::vector<TensorTarget>& targets);

// Loads the newest checkpoint of a run that is whole, and says which one and why newer ones were refused. None at all
// gives nothing. Errors: Error when there are checkpoints and none is whole; InputError when it is of another model.
std::optional<TrainState> load_latest_checkpoint(const std::filesystem::path& run, const ModelConfig& config,
                                                 const std::vector<TensorTarget>& targets);

// Reads every byte. Returns what is wrong, in words; empty when it is whole.
std::vector<std::string> verify_checkpoint(const std::filesystem::path& folder);

// What --model names: a weights folder; a checkpoint; or a run folder, which stands for its newest whole checkpoint, or
// for its model/ where there is none. Errors: InputError when it is none of these.
// Of its tensors those wanted are read.
LoadedModel resolve_model(const std::filesystem::path& path, const WantedParameters& wanted = all_parameters);

enum class FolderKind { weights, checkpoint, run, other };
FolderKind folder_kind(const std::filesystem::path& path);

}  // namespace photon
