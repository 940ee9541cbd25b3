#include <algorithm>
#include <map>
#include <set>

#include "checkpoint/checkpoint.hpp"
#include "checkpoint/manifest.hpp"
#include "storage/hdf5.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {
namespace fs = std::filesystem;
namespace {

// Reads a stored piece into out[count] and checks its bytes. Errors: DamagedCheckpoint.
void read_piece(const Hdf5File& file, const fs::path& folder, const StoredPiece& piece, float* out) {
  const Shape shape = file.shape(piece.dataset);
  if (shape.numel() != piece.count) {
    throw_damaged(folder, fmt::format("data set '{}' has {} elements, the manifest says {}", piece.dataset,
                                      shape.numel(), piece.count));
  }
  file.read(piece.dataset, TensorView(out, DType::f32, Space::host, shape));
  if (checksum_text(checksum(out, static_cast<std::uint64_t>(piece.count) * sizeof(float))) != piece.checksum) {
    throw_damaged(folder, fmt::format("data set '{}' does not have the checksum it was written with", piece.dataset));
  }
}

void check_size(const fs::path& folder, const StoredFile& file) {
  const fs::path path = folder / file.name;
  if (!fs::is_regular_file(path)) throw_damaged(folder, fmt::format("{} is missing", file.name));
  if (fs::file_size(path) != file.bytes) {
    throw_damaged(folder,
                  fmt::format("{} has {} bytes, it was written with {}", file.name, fs::file_size(path), file.bytes));
  }
}

// Copies what `piece`, lying at `values`, and `target` have in common. Returns the number of elements.
std::int64_t copy_overlap(const StoredPiece& piece, const float* values, const TensorTarget& target) {
  const std::int64_t begin = std::max(piece.offset, target.offset);
  const std::int64_t end = std::min(piece.offset + piece.count, target.offset + target.data.numel());
  if (begin >= end) return 0;
  auto* const to = target.data.host<float>() + (begin - target.offset);
  const float* const from = values + (begin - piece.offset);
  if (to != from) std::copy(from, from + (end - begin), to);
  return end - begin;
}

void check_targets(const Manifest& manifest, const fs::path& folder, const std::vector<TensorTarget>& targets) {
  std::map<std::string, std::vector<std::int64_t>> shapes;
  for (const StoredFile& file : manifest.files) {
    for (const StoredPiece& piece : file.pieces) shapes[piece.name] = piece.shape;
  }
  for (const TensorTarget& target : targets) {
    PHOTON_EXPECT(target.data.contiguous(), "'{}' is read into contiguous memory only", target.name);
    const auto found = shapes.find(target.name);
    if (found == shapes.end() || found->second != target.shape) {
      throw InputError(fmt::format("checkpoint {} does not fit", folder.string()),
                       found == shapes.end()
                           ? fmt::format("it holds no '{}'", target.name)
                           : fmt::format("its '{}' has the shape [{}], needed is [{}]", target.name,
                                         fmt::join(found->second, ", "), fmt::join(target.shape, ", ")),
                       "use a checkpoint of the same model");
    }
  }
}

void read_tensors(const Manifest& manifest, const fs::path& folder, const std::vector<TensorTarget>& targets) {
  check_targets(manifest, folder, targets);
  std::multimap<std::string, const TensorTarget*> wanted;
  std::map<const TensorTarget*, std::int64_t> missing;
  for (const TensorTarget& target : targets) {
    wanted.emplace(target.name, &target);
    missing[&target] = target.data.numel();
  }
  std::vector<float> buffer;
  for (const StoredFile& stored : manifest.files) {
    check_size(folder, stored);
    if (stored.pieces.empty()) continue;
    const Hdf5File file = Hdf5File::open(folder / stored.name);
    for (const StoredPiece& piece : stored.pieces) {
      const auto [first, last] = wanted.equal_range(piece.name);
      if (first == last) continue;
      const TensorTarget& only = *first->second;
      // The usual case, one target that is the piece, needs no memory of its own.
      const bool direct = std::next(first) == last && only.offset == piece.offset && only.data.numel() == piece.count;
      if (!direct) buffer.resize(static_cast<std::size_t>(piece.count));
      float* const values = direct ? only.data.host<float>() : buffer.data();
      read_piece(file, folder, piece, values);
      for (auto target = first; target != last; ++target)
        missing[target->second] -= copy_overlap(piece, values, *target->second);
    }
  }
  for (const auto& [target, count] : missing) {
    if (count != 0) throw_damaged(folder, fmt::format("{} elements of '{}' are not stored", count, target->name));
  }
}

// HDF5's complaints about a file that its manifest vouches for mean damage.
template <class Work>
void reading_files(const fs::path& folder, const Work& work) {
  try {
    work();
  } catch (const DamagedCheckpoint&) {
    throw;
  } catch (const InputError& error) {
    throw_damaged(folder, error.what());
  }
}

}  // namespace

CheckpointInfo read_checkpoint_info(const fs::path& folder) {
  Manifest manifest = read_manifest(folder);
  return {std::move(manifest.config), std::move(manifest.state), manifest.num_ranks};
}

void read_checkpoint_tensors(const fs::path& folder, const std::vector<TensorTarget>& targets) {
  const Manifest manifest = read_manifest(folder);
  check_targets(manifest, folder, targets);
  reading_files(folder, [&] { read_tensors(manifest, folder, targets); });
}

std::optional<TrainState> load_latest_checkpoint(const fs::path& run, const ModelConfig& config,
                                                 const std::vector<TensorTarget>& targets) {
  const std::vector<fs::path> folders = list_checkpoints(run);
  for (const fs::path& folder : folders) {
    try {
      const CheckpointInfo info = read_checkpoint_info(folder);
      if (!(info.config == config)) {
        throw InputError(fmt::format("checkpoint {} is of another model", folder.string()),
                         "the model of the configuration differs from the one it was saved with",
                         "use the configuration of the run, another --run folder, or --fresh");
      }
      read_checkpoint_tensors(folder, targets);
      if (&folder != &folders.front()) log_warning("using the older checkpoint {}", folder.string());
      return info.state;
    } catch (const DamagedCheckpoint& error) {
      log_warning("{}", error.what());
    }
  }
  if (folders.empty()) return std::nullopt;
  throw Error(fmt::format("no checkpoint of {} can be used", run.string()),
              fmt::format("{} found, every one incomplete or damaged", folders.size()),
              "restore one from a copy, or start over with --fresh");
}

std::vector<std::string> verify_checkpoint(const fs::path& folder) {
  std::vector<std::string> problems;
  Manifest manifest;
  try {
    manifest = read_manifest(folder);
  } catch (const Error& error) {
    return {error.what()};
  }
  std::set<std::string> expected = {manifest_name};
  std::map<std::string, std::int64_t> stored_elements;
  for (const StoredFile& stored : manifest.files) {
    expected.insert(stored.name);
    for (const StoredPiece& piece : stored.pieces) stored_elements[piece.name] += piece.count;
    const std::size_t before = problems.size();
    try {
      check_size(folder, stored);
      if (checksum_text(checksum_file(folder / stored.name)) == stored.checksum) continue;
      if (!stored.pieces.empty()) {  // find out which
        const Hdf5File file = Hdf5File::open(folder / stored.name);
        std::vector<float> buffer;
        for (const StoredPiece& piece : stored.pieces) {
          buffer.resize(static_cast<std::size_t>(piece.count));
          try {
            read_piece(file, folder, piece, buffer.data());
          } catch (const Error& error) {
            problems.emplace_back(error.what());
          }
        }
      }
      if (problems.size() == before) {
        problems.push_back(
            fmt::format("{} does not have the checksum it was written with", (folder / stored.name).string()));
      }
    } catch (const Error& error) {
      problems.emplace_back(error.what());
    }
  }
  for (const ParameterSpec& spec : parameters(manifest.config)) {
    const std::string name = std::string(parameter_group) + "/" + spec.name;
    if (stored_elements[name] != spec.numel()) problems.push_back(fmt::format("'{}' is not stored completely", name));
  }
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (expected.count(name) == 0)
      problems.push_back(fmt::format("{} does not belong to the checkpoint", entry.path().string()));
  }
  return problems;
}

}  // namespace photon
