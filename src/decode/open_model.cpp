#include "decode/open_model.hpp"

#include "checkpoint/checkpoint.hpp"
#include "support/error.hpp"

namespace photon {

std::int32_t start_token(const ModelConfig& config, const Tokenizer* tokenizer) {
  if (config.start_token >= 0) return static_cast<std::int32_t>(config.start_token);
  if (tokenizer == nullptr) return 0;
  return tokenizer->bos() >= 0 ? tokenizer->bos() : tokenizer->eos();
}

OpenModel open_model(const std::filesystem::path& path, Space space, DType dtype) {
  const LoadedModel loaded = resolve_model(path);
  OpenModel open;
  open.folder = loaded.folder;
  open.step = loaded.step;
  if (!loaded.config.tokenizer.empty()) {
    open.tokenizer = make_tokenizer(loaded.config.tokenizer, loaded.folder);
    if (open.tokenizer->vocab_size() > loaded.config.vocab_size) {
      throw InputError(
          fmt::format("the tokenizer of {} does not fit its model", path.string()),
          fmt::format("it has {} ids, the model {}", open.tokenizer->vocab_size(), loaded.config.vocab_size),
          "put the tokenizer that the model was trained with into the folder");
    }
  }
  open.model = make_model(loaded.config, space, start_token(loaded.config, open.tokenizer.get()), dtype);
  copy(loaded.parameters.flat(), open.model->parameters().flat());
  open.model->parameters().refresh_working_copy();
  return open;
}

OpenModel fresh_model(const ModelConfig& config, std::uint64_t seed, Space space, DType dtype) {
  OpenModel open;
  if (config.tokenizer == "byte") open.tokenizer = make_tokenizer(config.tokenizer);
  open.model = make_model(config, space, start_token(config, open.tokenizer.get()), dtype);
  initialize(open.model->parameters(), seed);
  return open;
}

Numerics parse_numerics(const std::string& name) {
  if (name == "deterministic") return Numerics::deterministic;
  if (name == "tuned") return Numerics::tuned;
  throw InputError(fmt::format("unknown numerics '{}'", name), "", "use deterministic or tuned");
}

}  // namespace photon
