#include "model/incremental.hpp"

#include <algorithm>

#include "blueprint/activations.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/embedding.hpp"
#include "model/photon_decoder.hpp"
#include "model/vanilla_decoder.hpp"

namespace photon {

std::unique_ptr<IncrementalDecoder> make_incremental_decoder(Model& model, const Context& ctx, std::int64_t num_slots,
                                                             std::int64_t max_tokens, const DecoderOptions& options) {
  if (auto* const vanilla = dynamic_cast<VanillaModel*>(&model)) {
    return std::make_unique<VanillaDecoder>(*vanilla, ctx, num_slots, max_tokens, options);
  }
  auto* const photon = dynamic_cast<PhotonModel*>(&model);
  PHOTON_EXPECT(photon != nullptr, "a model that is neither photon nor vanilla");
  return std::make_unique<PhotonDecoder>(photon->config(), photon->tensors(), photon->dtype(), ctx, num_slots,
                                         max_tokens, options);
}

std::int64_t slot_cache_bytes(const ModelConfig& config, std::int64_t max_tokens, DType dtype) {
  return decode_cache_bytes(config, max_tokens, element_bytes(dtype));
}

std::int64_t step_row_bytes(const ModelConfig& config, DType dtype) {
  return decode_step_row_bytes(config, element_bytes(dtype));
}

void StepResult::append(const StepResult& more) {
  const auto join = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
  PHOTON_EXPECT(num_tokens == more.num_tokens && num_top == more.num_top, "results of unlike steps");
  join(tokens, more.tokens);
  join(logprobs, more.logprobs);
  join(top_tokens, more.top_tokens);
  join(top_logprobs, more.top_logprobs);
}

void IncrementalDecoder::show_logits(const Context& ctx, const ConstTensorView& logits, std::int64_t begin,
                                     std::int64_t offset) const {
  const Tensor here(Space::host, DType::f32, logits.shape(), "watched logits");
  copy(ctx.stream, logits, here.view());
  const std::int64_t count = std::min(logits.size(0), watched_.size(0) - begin);  // the rest are padding
  if (count <= 0) return;
  for (std::int64_t r = 0; r < count; ++r) {
    copy(here.view().slice(0, r, 1).merge(0), watched_.slice(0, begin + r, 1).slice(1, offset, 1).merge(0).merge(0));
  }
}

void require_recgen(const ModelConfig& config) {
  constexpr const char* remedy = "use --mode hiergen";
  if (config.type == ModelType::vanilla)
    throw InputError("RecGen cannot be used", "a vanilla model has no hierarchy", remedy);
  if (config.num_levels() < 2) {
    throw InputError("RecGen cannot be used", "the model has one level and nothing above it to roll out", remedy);
  }
  if (config.lookback > 0) {
    throw InputError(
        "RecGen cannot be used",
        fmt::format("the model looks back at {} tokens, so its chunks depend on each other", config.lookback), remedy);
  }
}

Tensor recgen_hidden(Model& model, const Context& ctx, const Batch& batch, std::span<const std::int64_t> prompt_tokens,
                     std::span<const TensorView> conditioning) {
  require_recgen(model.config());
  auto& photon = dynamic_cast<PhotonModel&>(model);
  const ModelConfig& config = model.config();
  const std::int64_t num_rows = batch.tokens.size(0);
  const std::int64_t tokens = batch.tokens.size(1);
  const std::int64_t group = config.group_tokens();
  const std::int64_t length = config.padded_length(tokens);
  PHOTON_EXPECT(static_cast<std::int64_t>(prompt_tokens.size()) == num_rows, "{} prompt lengths for {} rows",
                prompt_tokens.size(), num_rows);
  Tensor hidden = model.hidden(ctx, batch);  // HierGen's rule everywhere

  // P' of every row, and how many groups must be rolled out behind it.
  std::vector<std::int64_t> slots;
  std::vector<std::int64_t> starts;
  std::vector<std::span<const std::int32_t>> prompts;
  std::int64_t num_groups = 0;
  const auto* const ids = batch.tokens.host<std::int32_t>();
  for (std::int64_t b = 0; b < num_rows; ++b) {
    const std::int64_t prompt = prompt_tokens[static_cast<std::size_t>(b)];
    PHOTON_EXPECT(prompt >= 0, "a prompt of {} tokens", prompt);
    const std::int64_t start = config.padded_length(prompt);
    if (start >= tokens) continue;
    slots.push_back(b);
    starts.push_back(start);
    prompts.emplace_back(ids + b * tokens, static_cast<std::size_t>(start));
    num_groups = std::max(num_groups, (length - start) / group);
  }
  if (slots.empty()) return hidden;
  const std::int64_t longest = *std::max_element(starts.begin(), starts.end());
  PhotonDecoder decoder(config, photon.tensors(), photon.dtype(), ctx, num_rows, longest + num_groups * group);
  decoder.prefill(slots, prompts);
  const ConstTensorView latents = decoder.roll_out(slots, num_groups);  // c(1) [rows, chunks, D_1]

  for (std::size_t i = 0; i < conditioning.size(); ++i) {
    const auto l = static_cast<std::int64_t>(i) + 1;
    const std::int64_t span = config.cumulative_chunk(l);
    const ConstTensorView rolled = decoder.rolled(l, static_cast<std::int64_t>(slots.size()), num_groups);
    for (std::size_t row = 0; row < slots.size(); ++row) {
      const std::int64_t units = (length - starts[row]) / span;
      copy_elements(ctx, rolled.slice(0, static_cast<std::int64_t>(row), 1).merge(0).slice(0, 0, units),
                    conditioning[i].slice(0, slots[row], 1).merge(0).slice(0, starts[row] / span, units));
    }
  }

  const std::int64_t chunk = config.levels[0].chunk;
  const std::int64_t max_chunks = length / chunk;
  Arena arena(ctx.space,
              photon.decode_groups_bytes(1, max_chunks) +
                  2 * arena_bytes(length * config.dim, element_bytes(model.dtype())) + arena_bytes(length, 4),
              "RecGen's likelihood");
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const ArenaScope scope(arena);
    const std::int64_t count = length - starts[i];  // positions, whole groups
    std::vector<std::int32_t> own(static_cast<std::size_t>(count), 0);
    const std::int32_t* const row = ids + slots[i] * tokens;
    std::copy(row + starts[i], row + tokens, own.begin());
    const TensorView content = arena.allocate(model.dtype(), {1, count, config.dim});
    const TensorView y = arena.allocate(model.dtype(), {count / chunk, chunk, config.dim});
    embedding_forward(ctx, photon.tensors().embed, upload(ctx, arena, own), content.merge(0));
    const ConstTensorView c = latents.slice(0, static_cast<std::int64_t>(i), 1).merge(0).slice(0, 0, count / chunk);
    photon.decode_groups(ctx, arena, 1, c, content, y);
    copy_elements(ctx, y.merge(0).slice(0, 0, tokens - starts[i]),
                  hidden.view().slice(0, slots[i], 1).merge(0).slice(0, starts[i], tokens - starts[i]));
  }
  return hidden;
}

}  // namespace photon
