#include "decode/open_model.hpp"

#include "blueprint/modules.hpp"
#include "checkpoint/checkpoint.hpp"
#include "model/photon_share.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

LayerRange layers_of(const DecodeLayout& layout, int rank, const ModelConfig& config) {
  require_decoder_shards(config);
  return layout.takes_prompts(rank) ? coarse_layers(config) : chunk_layers(config);
}

// Everything but the weights.
OpenModel open_folder(const LoadedModel& loaded, const std::filesystem::path& path) {
  OpenModel open;
  open.folder = loaded.folder;
  open.step = loaded.step;
  if (loaded.config.tokenizer.empty()) return open;
  open.tokenizer = make_tokenizer(loaded.config.tokenizer, loaded.folder);
  if (open.tokenizer->vocab_size() > loaded.config.vocab_size) {
    throw InputError(fmt::format("the tokenizer of {} does not fit its model", path.string()),
                     fmt::format("it has {} ids, the model {}", open.tokenizer->vocab_size(), loaded.config.vocab_size),
                     "put the tokenizer that the model was trained with into the folder");
  }
  return open;
}

}  // namespace

OpenModel::OpenModel() = default;
OpenModel::~OpenModel() = default;
OpenModel::OpenModel(OpenModel&& other) noexcept = default;
OpenModel& OpenModel::operator=(OpenModel&& other) noexcept = default;

const ModelConfig& OpenModel::config() const {
  return share ? share->config() : model->config();
}

std::int32_t start_token(const ModelConfig& config, const Tokenizer* tokenizer) {
  if (config.start_token >= 0) return static_cast<std::int32_t>(config.start_token);
  if (tokenizer == nullptr) return 0;
  return tokenizer->bos() >= 0 ? tokenizer->bos() : tokenizer->eos();
}

OpenModel open_model(const std::filesystem::path& path, Space space, DType dtype) {
  const LoadedModel loaded = resolve_model(path);
  OpenModel open = open_folder(loaded, path);
  open.model = make_frozen_model(loaded.config, space, start_token(loaded.config, open.tokenizer.get()), dtype);
  open.model->parameters().assign(loaded.parameters);
  return open;
}

OpenModel open_model_on(const DecodeLayout& layout, int rank, const std::filesystem::path& path, Space space,
                        DType dtype) {
  if (layout.shards == 0) return open_model(path, space, dtype);
  const LoadedModel loaded = resolve_model(
      path, [&](const ModelConfig& config) { return hosted_parameters(config, layers_of(layout, rank, config)); });
  OpenModel open = open_folder(loaded, path);
  open.share = std::make_unique<PhotonShare>(loaded.config, layers_of(layout, rank, loaded.config), space, dtype);
  open.share->parameters().assign(loaded.parameters);
  return open;
}

OpenModel fresh_model_on(const DecodeLayout& layout, int rank, const ModelConfig& config, std::uint64_t seed,
                         Space space, DType dtype) {
  OpenModel open;
  if (config.tokenizer == "byte") open.tokenizer = make_tokenizer(config.tokenizer);
  if (layout.shards > 0) {
    open.share = std::make_unique<PhotonShare>(config, layers_of(layout, rank, config), space, dtype);
    initialize(open.share->parameters(), seed);
    return open;
  }
  open.model = make_frozen_model(config, space, start_token(config, open.tokenizer.get()), dtype);
  initialize(open.model->parameters(), seed);
  return open;
}

OpenModel fresh_model(const ModelConfig& config, std::uint64_t seed, Space space, DType dtype) {
  return fresh_model_on({}, 0, config, seed, space, dtype);
}

Numerics parse_numerics(const std::string& name) {
  if (name == "deterministic") return Numerics::deterministic;
  if (name == "tuned") return Numerics::tuned;
  throw InputError(fmt::format("unknown numerics '{}'", name), "", "use deterministic or tuned");
}

}  // namespace photon
