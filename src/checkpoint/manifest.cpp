#include "checkpoint/manifest.hpp"

#include <nlohmann/json.hpp>

#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon {
namespace fs = std::filesystem;
namespace {
using Json = nlohmann::json;

Json to_json(const StoredFile& file) {
  Json pieces = Json::array();
  for (const StoredPiece& piece : file.pieces) {
    pieces.push_back({{"name", piece.name},
                      {"dataset", piece.dataset},
                      {"shape", piece.shape},
                      {"offset", piece.offset},
                      {"count", piece.count},
                      {"checksum", piece.checksum}});
  }
  return {{"name", file.name}, {"bytes", file.bytes}, {"checksum", file.checksum}, {"tensors", pieces}};
}

StoredFile stored_file(const Json& json) {
  StoredFile file;
  file.name = json.at("name").get<std::string>();
  file.bytes = json.at("bytes").get<std::uint64_t>();
  file.checksum = json.at("checksum").get<std::string>();
  for (const Json& piece : json.at("tensors")) {
    file.pieces.push_back({piece.at("name").get<std::string>(), piece.at("dataset").get<std::string>(),
                           piece.at("shape").get<std::vector<std::int64_t>>(), piece.at("offset").get<std::int64_t>(),
                           piece.at("count").get<std::int64_t>(), piece.at("checksum").get<std::string>()});
  }
  return file;
}

// The manifest's checksum covers all of it but itself.
std::string own_checksum(Json json) {
  json.erase("checksum");
  const std::string text = json.dump();
  return checksum_text(checksum(text.data(), text.size()));
}

std::string layout(const Json& json) {
  return json.dump(1) + "\n";
}

bool plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && fs::path(name).filename() == fs::path(name);
}

}  // namespace

void throw_damaged(const fs::path& folder, const std::string& why) {
  throw DamagedCheckpoint(fmt::format("checkpoint {} cannot be used", folder.string()), why,
                          "use another checkpoint or restore its files");
}

std::int64_t numel_of(const std::vector<std::int64_t>& shape) {
  std::int64_t n = 1;
  for (const std::int64_t size : shape) n *= size;
  return n;
}

std::string to_json_text(const StoredFile& file) {
  return layout(to_json(file));
}

StoredFile stored_file_from_json(const std::string& text, const fs::path& where) {
  try {
    return stored_file(Json::parse(text));
  } catch (const Json::exception& error) {
    throw Error(fmt::format("cannot read {}", where.string()), error.what(),
                "check the file system that the ranks share");
  }
}

std::string to_json_text(const Manifest& manifest) {
  const std::string config = to_json_text(manifest.config);
  Json files = Json::array();
  for (const StoredFile& file : manifest.files) files.push_back(to_json(file));
  Json json = {{"format_version", checkpoint_format_version},
               {"kind", "photon-checkpoint"},
               {"step", manifest.state.step},
               {"samples", manifest.state.samples},
               {"tokens", manifest.state.tokens},
               {"skipped_steps", manifest.state.skipped_steps},
               {"extra", Json::parse(manifest.state.extra_json)},
               {"num_ranks", manifest.num_ranks},
               {"model", Json::parse(config)},
               {"model_checksum", checksum_text(checksum(config.data(), config.size()))},
               {"files", files}};
  json["checksum"] = own_checksum(json);
  return layout(json);
}

Manifest read_manifest(const fs::path& folder) {
  const fs::path path = folder / manifest_name;
  if (!fs::is_regular_file(path)) throw_damaged(folder, "it has no manifest.json: it was never completed");
  try {
    // Every format version keeps this rule, so that a newer manifest is told from a damaged one: "checksum" is that of
    // the rest, and the text is laid out in one way only.
    const std::string text = read_text_file(path);
    const Json json = Json::parse(text);
    if (json.at("checksum").get<std::string>() != own_checksum(json) || text != layout(json)) {
      throw_damaged(folder, "manifest.json does not have the checksum it was written with");
    }
    const auto version = json.at("format_version").get<std::int64_t>();
    if (version > checkpoint_format_version) {
      throw InputError(fmt::format("{} has format_version {}", path.string(), version),
                       fmt::format("this photon reads up to {}", checkpoint_format_version), "use a newer photon");
    }
    Manifest manifest;
    manifest.state.step = json.at("step").get<std::int64_t>();
    manifest.state.samples = json.at("samples").get<std::int64_t>();
    manifest.state.tokens = json.at("tokens").get<std::int64_t>();
    manifest.state.skipped_steps = json.at("skipped_steps").get<std::int64_t>();
    manifest.state.extra_json = json.at("extra").dump();
    manifest.num_ranks = json.at("num_ranks").get<std::int64_t>();
    manifest.config = model_config_from_json(json.at("model").dump(), path.string() + ", model");
    for (const Json& file : json.at("files")) {
      manifest.files.push_back(stored_file(file));
      if (!plain_name(manifest.files.back().name))
        throw_damaged(folder, "manifest.json names a file outside of the folder");
    }
    return manifest;
  } catch (const Json::exception& error) {
    throw_damaged(folder, fmt::format("manifest.json is damaged: {}", error.what()));
  }
}

}  // namespace photon
