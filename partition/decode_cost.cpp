#include "partition/decode_cost.hpp"

#include <algorithm>
#include <bit>

#include "blueprint/activations.hpp"
#include "blueprint/flops.hpp"
#include "blueprint/modules.hpp"
#include "blueprint/parameters.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

constexpr std::int64_t least_prefill_tokens = 1024;
constexpr std::int64_t least_chunks = 512;
// What a process holds of a GPU before it has loaded anything: CUDA, libraries, the workspace of decoding.
constexpr std::int64_t process_bytes = std::int64_t{768} << 20;
// Between a coarse rank and its shards, for each row of a step once: sampling options, and where its tokens begin.
constexpr std::int64_t row_message_bytes = 88;

std::int64_t round_up(std::int64_t n, std::int64_t to) {
  return (n + to - 1) / to * to;
}

std::int64_t kv_bytes(const StackConfig& stack, std::int64_t width, std::int64_t positions, std::int64_t element) {
  const std::int64_t kept = stack.window > 0 ? std::min(stack.window, positions) : positions;
  return element * 2 * stack.layers * stack.kv_heads * (width / stack.heads) * kept;
}

}  // namespace

DecodeSeconds& DecodeSeconds::operator+=(const DecodeSeconds& other) {
  arithmetic += other.arithmetic;
  weights += other.weights;
  caches += other.caches;
  activations += other.activations;
  ops += other.ops;
  return *this;
}

DecodeSeconds operator*(double factor, DecodeSeconds seconds) {
  seconds.arithmetic *= factor;
  seconds.weights *= factor;
  seconds.caches *= factor;
  seconds.activations *= factor;
  seconds.ops *= factor;
  return seconds;
}

DecodeCost::DecodeCost(const ModelConfig& config, const Cluster& cluster, Precision precision)
    : config_(config), cluster_(cluster), element_(precision == Precision::fp32 ? 4 : 2) {}

void DecodeCost::traffic(double& part, DecodeSeconds& sum, double bytes) const {
  part += bytes / cluster_.memory_bandwidth;
  sum.ops += cluster_.op_overhead;
}

void DecodeCost::product(DecodeSeconds& sum, double n, double in, double out) const {
  const auto e = static_cast<double>(element_);
  const double weights = e * in * out;
  const double rows = e * n * (in + out);
  const bool few = n <= static_cast<double>(cluster_.few_rows);
  const double arithmetic = 2 * n * in * out / (cluster_.decoding_flops > 0 ? cluster_.decoding_flops : cluster_.flops);
  const double reading = weights * (few ? 1 + cluster_.few_rows_slowdown * (n - 1) : 1);
  const double moving = (reading + rows) / cluster_.memory_bandwidth;
  (arithmetic >= moving ? sum.arithmetic
   : weights >= rows    ? sum.weights
                        : sum.activations) += std::max(arithmetic, moving);
  sum.ops += cluster_.op_overhead + (few ? 0 : cluster_.product_latency);
}

void DecodeCost::stack(DecodeSeconds& sum, const StackConfig& stack, std::int64_t width, double rows, double positions,
                       double keys) const {
  const auto e = static_cast<double>(element_);
  const auto d = static_cast<double>(width);
  const auto kv = static_cast<double>(width / stack.heads * stack.kv_heads);
  const auto ffn = static_cast<double>(stack.ffn);
  const double n = rows * positions;
  // m of the n positions leave a layer: of the last one each sequence's last.
  const auto layer = [&](double m) {
    DecodeSeconds one;
    product(one, n, d, d + 2 * kv);
    traffic(one.caches, one, e * (rows * 2 * kv * keys + n * 2 * kv + m * 2 * d));  // read; written; queries, results
    product(one, m, d, d);
    traffic(one.activations, one, e * m * 4 * d);  // residual and norm
    product(one, m, d, 2 * ffn);
    traffic(one.activations, one, e * m * 3 * ffn);
    product(one, m, ffn, d);
    traffic(one.activations, one, e * m * 4 * d);
    return one;
  };
  sum += static_cast<double>(stack.layers - 1) * layer(n);
  sum += layer(rows);
}

void DecodeCost::local(DecodeSeconds& sum, std::int64_t l, double rows) const {
  const LevelConfig& level = config_.levels[static_cast<std::size_t>(l - 1)];
  const std::int64_t below = config_.width(l - 1);
  const auto start = static_cast<double>(level.prefix + config_.level_lookback(l));
  product(sum, rows, static_cast<double>(level.dim), static_cast<double>(level.prefix * below));
  stack(sum, level.decoder, below, rows, start, 0);
  for (std::int64_t j = 1; j < level.chunk; ++j)
    stack(sum, level.decoder, below, rows, 1, start + static_cast<double>(j) - 1);
}

void DecodeCost::head(DecodeSeconds& sum, double rows) const {
  const auto vocab = static_cast<double>(config_.vocab_size);
  product(sum, rows, static_cast<double>(config_.dim), vocab);
  traffic(sum.activations, sum, rows * vocab * 8);  // logits in fp32, written and read
  traffic(sum.activations, sum, static_cast<double>(element_) * rows * 2 * static_cast<double>(config_.dim));
}

DecodeSeconds DecodeCost::chunk(std::int64_t rows) const {
  DecodeSeconds sum;
  local(sum, 1, static_cast<double>(rows));
  for (std::int64_t j = 0; j < config_.levels[0].chunk; ++j) head(sum, static_cast<double>(rows));
  return sum;
}

DecodeSeconds DecodeCost::group(std::int64_t l, std::int64_t rows) const {
  DecodeSeconds sum;
  local(sum, l, static_cast<double>(rows));
  return sum;
}

DecodeSeconds DecodeCost::encoder(std::int64_t l, std::int64_t rows, double tokens) const {
  const LevelConfig& level = config_.levels[static_cast<std::size_t>(l - 1)];
  double units = tokens / static_cast<double>(config_.cumulative_chunk(l));
  if (level.encoder.window > 0) units = std::min(units, static_cast<double>(level.encoder.window));
  DecodeSeconds sum;
  product(sum, static_cast<double>(rows), static_cast<double>(level.chunk * config_.width(l - 1)),
          static_cast<double>(level.dim));
  stack(sum, level.encoder, level.dim, static_cast<double>(rows), 1, units);
  return sum;
}

DecodeSeconds DecodeCost::coarse_step(std::int64_t rows, double tokens) const {
  DecodeSeconds sum;
  for (std::int64_t l = 1; l <= config_.num_levels(); ++l) {
    const auto times = static_cast<double>(config_.group_tokens() / config_.cumulative_chunk(l));
    sum += times * encoder(l, rows, tokens);
    if (l > 1) sum += times * group(l, rows);
  }
  return sum;
}

DecodeSeconds DecodeCost::whole_step(std::int64_t rows, double tokens) const {
  DecodeSeconds sum;
  if (config_.type == ModelType::vanilla) {
    stack(sum, config_.stack, config_.dim, static_cast<double>(rows), 1, tokens);
    head(sum, static_cast<double>(rows));
    return sum;
  }
  sum = coarse_step(rows, tokens);
  sum += static_cast<double>(config_.group_tokens() / config_.cumulative_chunk(1)) * chunk(rows);
  return sum;
}

DecodeSeconds DecodeCost::roll_out(std::int64_t rows, std::int64_t groups, double tokens) const {
  const std::int64_t top = config_.num_levels();
  DecodeSeconds once = encoder(top, rows, tokens);
  once += group(top, rows);
  DecodeSeconds sum = static_cast<double>(groups) * once;
  for (std::int64_t l = top - 1; l >= 2; --l)  // all groups side by side
    sum += group(l, rows * groups * (config_.group_tokens() / config_.cumulative_chunk(l)));
  return sum;
}

double DecodeCost::prefill_seconds(std::int64_t tokens) const {
  const ForwardFlops flops = forward_flops(config_, tokens);
  return (config_.type == ModelType::vanilla ? flops.decoders : flops.encoders) / cluster_.flops;
}

DecodeReserve decode_reserve(const ModelConfig& config, std::int64_t element, bool chunks, std::int64_t room) {
  // A row of a step stands for four positions of a prompt, generously.
  const std::int64_t row = decode_step_row_bytes(config, element);
  const std::int64_t chunk = row + decode_cache_bytes(config, 1, element);
  DecodeReserve reserve;
  std::int64_t& tokens = reserve.prefill_tokens;
  while (tokens > least_prefill_tokens && tokens * row / 4 > room / 8) tokens /= 2;
  while (chunks && reserve.max_chunks > least_chunks && reserve.max_chunks * chunk > room / 8) reserve.max_chunks /= 2;
  reserve.bytes = tokens * row / 4 + (chunks ? reserve.max_chunks * chunk : 0);
  return reserve;
}

DecodeMemory decode_memory(const ModelConfig& config, Precision precision, DecodeMode mode, DecodeRole role,
                           std::int64_t rows, std::int64_t capacity, std::int64_t cohorts, std::int64_t card_bytes) {
  const bool gpu = precision != Precision::fp32;
  const std::int64_t e = gpu ? 2 : 4;
  const bool vanilla = config.type == ModelType::vanilla;
  PHOTON_EXPECT(!vanilla || role == DecodeRole::whole, "a vanilla model has no coarse stream");
  const LayerRange layers = role == DecodeRole::whole    ? all_layers(config)
                            : role == DecodeRole::coarse ? coarse_layers(config)
                                                         : chunk_layers(config);
  DecodeMemory memory;
  const std::vector<ParameterSpec> weights = hosted_parameters(config, layers);
  memory.weights = flat_size(weights) * e + (gpu ? 4 * vectors_size(weights) : 0);  // norms are read in fp32
  const std::int64_t row = decode_step_row_bytes(config, e);
  const std::int64_t cohort_rows = (rows + cohorts - 1) / cohorts;
  if (gpu) {
    memory.step = (role == DecodeRole::shard ? cohort_rows : rows) * row;
    memory.reserve = process_bytes + device_spare_bytes;
    const std::int64_t room = card_bytes - memory.weights - memory.reserve;
    const DecodeReserve at_once =
        decode_reserve(config, e, mode == DecodeMode::recgen && role != DecodeRole::coarse, room);
    // A shard encodes no prompts.
    memory.reserve += at_once.bytes - (role == DecodeRole::shard ? at_once.prefill_tokens * row / 4 : 0);
  }
  if (vanilla) {
    memory.top_cache = rows * kv_bytes(config.stack, config.dim, capacity, e);
    return memory;
  }
  const std::int64_t top = config.num_levels();
  if (role != DecodeRole::shard) {
    memory.latents = rows * e * config.width(top);
    for (std::int64_t l = 1; l <= top; ++l) {
      const LevelConfig& level = config.levels[static_cast<std::size_t>(l - 1)];
      const std::int64_t units = (capacity + config.cumulative_chunk(l) - 1) / config.cumulative_chunk(l);
      const std::int64_t bytes = kv_bytes(level.encoder, level.dim, units, e);
      if (l == top) {
        memory.top_cache = rows * bytes;
      } else {
        memory.lower_caches += (mode == DecodeMode::recgen ? std::min(rows, recgen_prompt_rows) : rows) * bytes;
      }
      if (l > 1)
        memory.local_caches += rows * kv_bytes(level.decoder, config.width(l - 1), config.decoder_positions(l), e);
    }
  }
  if (role != DecodeRole::coarse) {
    const std::int64_t at_once = role == DecodeRole::shard ? cohort_rows : rows;  // a shard's cohorts take turns
    memory.local_caches += at_once * kv_bytes(config.levels[0].decoder, config.dim, config.decoder_positions(1), e);
  }
  if (role == DecodeRole::whole) memory.latents += rows * e * config.lookback * config.dim;
  if (role == DecodeRole::shard)
    memory.latents = cohorts * (cohort_rows * e * config.width(1) + (cohort_rows + 1) * capacity * 4);
  if (role != DecodeRole::whole) {
    const std::int64_t tokens = config.group_tokens();
    memory.staging = rows * (e * config.width(1) + row_message_bytes + 8 * tokens);
  }
  return memory;
}

std::int64_t decode_capacity(const ModelConfig& config, std::int64_t tokens) {
  const std::int64_t whole = round_up(tokens, config.group_tokens());
  const auto power =
      static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(std::max<std::int64_t>(whole, 8))));
  return round_up(round_up(whole, power / 8), config.group_tokens());
}

}  // namespace photon
