// What the keys of a model must satisfy together.
#include "config/visitors.hpp"

namespace photon {
namespace config {
namespace {

constexpr std::int64_t max_group_tokens = 1LL << 31;
constexpr std::int64_t byte_vocabulary = 259;  // 256 bytes, bos, eos, pad

class ModelChecker {
 public:
  ModelChecker(const ModelConfig& config, const Document& source, const std::string& path)
      : config_(config), source_(source), path_(path) {}

  void check() const {
    if (config_.tokenizer == "byte" && config_.vocab_size < byte_vocabulary) {
      throw source_.error(join_path(path_, "vocab_size"), fmt::format("is {}", config_.vocab_size),
                          fmt::format("the byte tokenizer has {} tokens", byte_vocabulary),
                          "make it at least as large");
    }
    if (config_.type == ModelType::vanilla) {
      check_stack(config_.stack, path_, config_.dim);
      if (config_.stack.window != 0) throw no_window(path_);
      if (!config_.levels.empty()) {
        throw source_.error(join_path(path_, "levels"), "has entries", "a vanilla model has no levels", "remove them");
      }
      return;
    }
    if (config_.levels.empty()) {
      throw source_.error(join_path(path_, "levels"), "is empty", "a photon model has at least one level", "add one");
    }
    for (std::int64_t l = 1; l <= config_.num_levels(); ++l) check_level(l);
  }

 private:
  void check_level(std::int64_t l) const {
    const LevelConfig& level = config_.levels[static_cast<std::size_t>(l - 1)];
    const std::string path = join_path(join_path(path_, "levels"), static_cast<std::size_t>(l - 1));
    check_stack(level.encoder, join_path(path, "encoder"), level.dim);
    check_stack(level.decoder, join_path(path, "decoder"), config_.width(l - 1));
    if (level.decoder.window != 0) throw no_window(join_path(path, "decoder"));
    if (const std::int64_t positions = config_.decoder_positions(l); positions > max_decoder_positions) {
      throw source_.error(join_path(path, "prefix"), fmt::format("makes a decoder of {} positions", positions),
                          fmt::format("prefix {} + lookback {} + chunk {} - 1 must be at most {}", level.prefix,
                                      config_.level_lookback(l), level.chunk, max_decoder_positions),
                          "make one of them smaller");
    }
    if (config_.cumulative_chunk(l) > max_group_tokens) {  // each factor is at most 64, so no step before overflowed
      throw source_.error(
          join_path(path, "chunk"), fmt::format("makes a unit of {} tokens", config_.cumulative_chunk(l)),
          fmt::format("a unit stands for at most {} tokens", max_group_tokens), "use smaller chunks or fewer levels");
    }
  }

  void check_stack(const StackConfig& stack, const std::string& path, std::int64_t width) const {
    const std::string heads = join_path(path, "heads");
    if (width % stack.heads != 0) {
      throw source_.error(heads, fmt::format("is {}", stack.heads), fmt::format("it must divide the width, {}", width),
                          "change it or the width");
    }
    if (width / stack.heads % 2 != 0) {
      throw source_.error(
          heads, fmt::format("is {}", stack.heads),
          fmt::format("a head would be {} wide, and rotary positions need an even width", width / stack.heads),
          "change it or the width");
    }
    if (stack.heads % stack.kv_heads != 0) {
      throw source_.error(join_path(path, "kv_heads"), fmt::format("is {}", stack.kv_heads),
                          fmt::format("it must divide heads, {}", stack.heads), "change it");
    }
  }

  InputError no_window(const std::string& path) const {
    return source_.error(join_path(path, "window"), "is set", "only the encoders of a photon model have windows",
                         "remove it");
  }

  const ModelConfig& config_;
  const Document& source_;
  const std::string& path_;
};

void resolve(StackConfig& stack) {
  if (stack.kv_heads == 0) stack.kv_heads = stack.heads;
}

}  // namespace

void resolve_and_check(ModelConfig& config, const Document& source, const std::string& path) {
  if (config.type == ModelType::vanilla) resolve(config.stack);
  for (LevelConfig& level : config.levels) {
    resolve(level.encoder);
    resolve(level.decoder);
  }
  Checker ranges(source, path);
  describe(ranges, static_cast<const ModelConfig&>(config));
  ModelChecker(config, source, path).check();
}

}  // namespace config

void validate(ModelConfig& config) {
  config::resolve_and_check(config, config::Document{}, "model");
}

}  // namespace photon
