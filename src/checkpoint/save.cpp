#include <algorithm>
#include <exception>
#include <map>
#include <system_error>
#include <utility>

#include "checkpoint/checkpoint.hpp"
#include "checkpoint/manifest.hpp"
#include "storage/hdf5.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {
namespace fs = std::filesystem;
namespace {

std::string rank_name(int rank, const char* extension) {
  return fmt::format("rank-{:05}.{}", rank, extension);
}

std::int64_t step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  constexpr std::string_view prefix = "step-";
  if (!name.starts_with(prefix) || name.size() == prefix.size() || name.size() > prefix.size() + 18) return -1;
  if (!std::all_of(name.begin() + prefix.size(), name.end(), [](char c) { return c >= '0' && c <= '9'; })) return -1;
  return std::stoll(name.substr(prefix.size()));
}

Shape stored_shape(const TensorPiece& piece) {
  if (piece.data.numel() != numel_of(piece.shape)) return {piece.data.numel()};
  return piece.data.shape();
}

StoredPiece write_piece(Hdf5File& file, const TensorPiece& piece) {
  const std::int64_t count = piece.data.numel();
  const bool whole = count == numel_of(piece.shape);
  PHOTON_EXPECT(piece.data.dtype() == DType::f32 && piece.offset >= 0 && piece.offset + count <= numel_of(piece.shape),
                "elements {} .. {} of '{}' cannot be saved", piece.offset, piece.offset + count, piece.name);
  StoredPiece stored{piece.name, piece.name, piece.shape, piece.offset, count, ""};
  if (!whole) stored.dataset += fmt::format("@{}", piece.offset);
  stored.checksum = checksum_text(checksum(piece.data.data(), static_cast<std::uint64_t>(piece.data.bytes())));
  file.write(stored.dataset, ConstTensorView(piece.data.data(), DType::f32, Space::host, stored_shape(piece)));
  return stored;
}

// Every logical tensor must be stored once, element by element.
void check_coverage(const Manifest& manifest) {
  std::map<std::string, std::vector<StoredPiece>> tensors;
  for (const StoredFile& file : manifest.files) {
    for (const StoredPiece& piece : file.pieces) tensors[piece.name].push_back(piece);
  }
  for (auto& [name, pieces] : tensors) {
    std::sort(pieces.begin(), pieces.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
    std::int64_t next = 0;
    for (const StoredPiece& piece : pieces) {
      PHOTON_EXPECT(piece.offset == next && piece.shape == pieces.front().shape,
                    "'{}' is not stored once from element {}", name, next);
      next += piece.count;
    }
    PHOTON_EXPECT(next == numel_of(pieces.front().shape), "'{}' is stored up to element {} only", name, next);
  }
}

template <class View>
std::vector<BasicPiece<View>> all_tensors(const std::string& group, const Parameters& values) {
  std::vector<BasicPiece<View>> pieces;
  for (const ParameterSpec& spec : values.specs()) {
    pieces.push_back({group + "/" + spec.name, spec.shape, 0, values.view(spec.name)});
  }
  return pieces;
}

}  // namespace

CheckpointSave::CheckpointSave(fs::path run, ModelConfig config, TrainState state, std::vector<TensorPiece> pieces,
                               SaveOptions options)
    : run_(std::move(run)),
      config_(std::move(config)),
      state_(std::move(state)),
      pieces_(std::move(pieces)),
      options_(std::move(options)),
      folder_(run_ / "checkpoints"),
      final_(folder_ / fmt::format("step-{}", state_.step)),
      temporary_(fs::path(final_).concat(".tmp")) {
  PHOTON_EXPECT(options_.keep >= 1, "a run keeps at least one checkpoint, not {}", options_.keep);
  PHOTON_EXPECT(state_.step >= 0, "step {} cannot be saved", state_.step);
}

void CheckpointSave::prepare() {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) throw_io_error("create", folder_, error.value());
  for (const auto& entry : fs::directory_iterator(folder_)) {  // what crashes left behind
    const std::string name = entry.path().filename().string();
    const bool leftover = name.starts_with(trash_prefix) || (name.starts_with("step-") && name.ends_with(".tmp"));
    if (leftover) fs::remove_all(entry.path(), error);
    if (error) throw_io_error("remove", entry.path(), error.value());
  }
  fs::create_directory(temporary_, error);
  if (error) throw_io_error("create", temporary_, error.value());
  fault_point("checkpoint.begin");
}

void CheckpointSave::write_part() {
  std::uint64_t needed = 1 << 20;  // the file's own structures
  for (const TensorPiece& piece : pieces_) needed += static_cast<std::uint64_t>(piece.data.bytes());
  const std::uint64_t available = free_bytes(temporary_);
  if (available < needed) {
    throw Error(
        fmt::format("cannot save the checkpoint of step {}", state_.step),
        fmt::format("it needs {} MB, {} has {} MB free", needed / 1'000'000, folder_.string(), available / 1'000'000),
        "free space or lower train.keep_checkpoints");
  }
  StoredFile stored;
  stored.name = rank_name(options_.rank, "h5");
  const fs::path path = temporary_ / stored.name;
  Hdf5File file = Hdf5File::create(path);
  file.set_attribute("format_version", checkpoint_format_version);
  file.set_attribute("kind", std::string("photon-checkpoint"));
  file.set_attribute("step", state_.step);
  file.set_attribute("rank", static_cast<std::int64_t>(options_.rank));
  file.set_attribute("num_ranks", static_cast<std::int64_t>(options_.num_ranks));
  for (const TensorPiece& piece : pieces_) stored.pieces.push_back(write_piece(file, piece));
  fault_point("checkpoint.data");
  file.close();
  stored.bytes = fs::file_size(path);
  stored.checksum = checksum_text(checksum_file(path));
  sync_path(path);
  publish_file(temporary_ / rank_name(options_.rank, "json"), to_json_text(stored), "checkpoint.part");
}

void CheckpointSave::commit() {
  Manifest manifest;
  manifest.config = config_;
  manifest.state = state_;
  manifest.num_ranks = options_.num_ranks;
  for (int rank = 0; rank < options_.num_ranks; ++rank) {
    const fs::path part = temporary_ / rank_name(rank, "json");
    manifest.files.push_back(stored_file_from_json(read_text_file(part), part));
    fs::remove(part);
  }
  check_coverage(manifest);
  if (!options_.tokenizer_file.empty()) {
    const fs::path copy = temporary_ / config_.tokenizer;
    copy_tokenizer(options_.tokenizer_file, copy);
    manifest.files.push_back({config_.tokenizer, fs::file_size(copy), checksum_text(checksum_file(copy)), {}});
  }
  fault_point("checkpoint.manifest");
  publish_file(temporary_ / manifest_name, to_json_text(manifest), "checkpoint.manifest_file");
  fault_point("checkpoint.rename");
  replace_folder(temporary_, final_, "checkpoint.publish");
  fault_point("checkpoint.latest");
  publish_file(run_ / "LATEST", final_.filename().string() + "\n", "checkpoint.latest_file");
  try {
    remove_old();
  } catch (const Error& error) {  // the new checkpoint is safe; old ones cost space only
    log_warning("an old checkpoint was not removed: {}", error.what());
  }
  fault_point("checkpoint.done");
}

void CheckpointSave::abandon() noexcept {
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);
}

void CheckpointSave::remove_old() {
  std::int64_t kept = 0;
  for (const fs::path& folder : list_checkpoints(run_)) {
    if (step_of(folder) > state_.step) {
      fs::path aside = folder;
      for (int i = 1; fs::exists(aside); ++i)
        aside = fs::path(folder).concat(i == 1 ? ".superseded" : fmt::format(".superseded-{}", i));
      log_warning("{} is of a later step, but this run did not continue from it; it is renamed to {}", folder.string(),
                  aside.filename().string());
      std::error_code error;
      fs::rename(folder, aside, error);
      if (error) throw_io_error("rename", folder, error.value());
    } else if (++kept > options_.keep) {
      fault_point("checkpoint.trash");
      remove_published(folder);
    }
  }
}

std::vector<TensorPiece> pieces_of(const std::string& group, const Parameters& values) {
  return all_tensors<ConstTensorView>(group, values);
}

std::vector<TensorTarget> targets_of(const std::string& group, const Parameters& values) {
  return all_tensors<TensorView>(group, values);
}

fs::path save_checkpoint(const fs::path& run, const ModelConfig& config, const TrainState& state,
                         const std::vector<TensorPiece>& pieces, const SaveOptions& options) {
  CheckpointSave save(run, config, state, pieces, options);
  const bool first = options.rank == 0;
  // Does `work` on this rank if it `takes_part`, and fails on every rank when it failed on any.
  const auto stage = [&](bool takes_part, void (CheckpointSave::*work)()) {
    std::exception_ptr failure;
    try {
      if (takes_part) (save.*work)();
    } catch (...) {
      failure = std::current_exception();
    }
    const bool mine = failure == nullptr;
    if (options.all_succeed ? options.all_succeed(mine) : mine) return;
    if (first) save.abandon();
    if (failure) std::rethrow_exception(failure);
    throw Error(fmt::format("the checkpoint of step {} was not saved", state.step), "another rank failed",
                "see the message of that rank");
  };
  stage(first, &CheckpointSave::prepare);
  stage(true, &CheckpointSave::write_part);
  stage(first, &CheckpointSave::commit);
  return save.folder();
}

std::vector<fs::path> list_checkpoints(const fs::path& run) {
  std::vector<fs::path> folders;
  if (!fs::is_directory(run / "checkpoints")) return folders;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints")) {
    if (entry.is_directory() && step_of(entry.path()) >= 0) folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end(),
            [](const fs::path& a, const fs::path& b) { return step_of(a) > step_of(b); });
  return folders;
}

}  // namespace photon
