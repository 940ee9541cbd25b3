#include "checkpoint/checkpoint.hpp"
#include "checkpoint/manifest.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {
namespace fs = std::filesystem;
namespace {

LoadedModel load_from_checkpoint(const fs::path& folder, const WantedParameters& wanted) {
  const CheckpointInfo info = read_checkpoint_info(folder);
  LoadedModel model;
  model.config = info.config;
  model.folder = folder;
  model.step = info.state.step;
  model.parameters = Parameters(wanted(model.config), Space::host, "the weights of " + folder.string());
  read_checkpoint_tensors(folder, targets_of(parameter_group, model.parameters));
  return model;
}

LoadedModel load_from_run(const fs::path& run, const WantedParameters& wanted) {
  const std::vector<fs::path> folders = list_checkpoints(run);
  for (const fs::path& folder : folders) {
    try {
      LoadedModel model = load_from_checkpoint(folder, wanted);
      log_info("using {}", folder.string());
      return model;
    } catch (const DamagedCheckpoint& error) {
      log_warning("{}", error.what());
    }
  }
  if (folder_kind(run / "model") == FolderKind::weights) {
    if (!folders.empty()) log_warning("no checkpoint of {} can be used; using its model/", run.string());
    return load_weights(run / "model", wanted);
  }
  throw InputError(fmt::format("the run {} has no weights", run.string()),
                   folders.empty() ? "nothing was saved yet" : "every checkpoint is incomplete or damaged",
                   "train until a checkpoint is saved, or name another model");
}

}  // namespace

FolderKind folder_kind(const fs::path& path) {
  if (fs::is_regular_file(path / "config.json")) return FolderKind::weights;
  // Without its manifest a checkpoint is an incomplete one, not something else.
  if (fs::is_regular_file(path / manifest_name) || fs::is_regular_file(path / "rank-00000.h5"))
    return FolderKind::checkpoint;
  if (fs::is_directory(path / "checkpoints") || fs::is_regular_file(path / "LATEST") ||
      fs::is_regular_file(path / "config.yaml")) {
    return FolderKind::run;
  }
  return FolderKind::other;
}

LoadedModel resolve_model(const fs::path& path, const WantedParameters& wanted) {
  switch (folder_kind(path)) {
    case FolderKind::weights:
      return load_weights(path, wanted);
    case FolderKind::checkpoint:
      return load_from_checkpoint(path, wanted);
    case FolderKind::run:
      return load_from_run(path, wanted);
    case FolderKind::other:
      break;
  }
  throw InputError(fmt::format("{} is no model", path.string()),
                   fs::exists(path) ? "it holds neither config.json, manifest.json nor checkpoints"
                                    : "there is nothing of that name",
                   "name a weights folder, a checkpoint or a run folder");
}

}  // namespace photon
