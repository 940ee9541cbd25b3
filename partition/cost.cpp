#include "partition/cost.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include "blueprint/activations.hpp"
#include "blueprint/flops.hpp"
#include "blueprint/parameters.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

constexpr std::int64_t float_bytes = 4;   // of gradients, moments and the weights' masters
constexpr double norm_traffic = 4;        // bytes a parameter: the gradient is read
constexpr double optimizer_traffic = 28;  // weight, gradient and two moments read, all but the gradient written

// Elements that a pass over these layers of one module reads of its parameters: of the embedding only where it is the
// head.
std::int64_t weights_read(const ModelConfig& config, const LayerRange& layers) {
  const bool head = layers.end == all_layers(config).end;
  std::int64_t elements = 0;
  for (const ParameterSpec& spec : hosted_parameters(config, layers)) {
    if (spec.name != embedding_name(config) || (head && config.tie_embeddings)) elements += spec.numel();
  }
  return elements;
}

// What a forward pass writes of a module's part and its backward reads: its stack's activations and its outputs.
// Encoders take `sequences` whole sequences, decoders `groups` of their groups.
double module_activations(const ModelConfig& config, std::int64_t module, const StackPart& part, std::int64_t sequences,
                          std::int64_t tokens, std::int64_t groups, std::int64_t element) {
  if (config.type == ModelType::vanilla) {
    return static_cast<double>(
        stack_saved_bytes(config.stack, part, config.dim, AttentionKind::stream, {sequences, tokens, tokens}, element) +
        sequences * tokens * config.dim * element);
  }
  const std::int64_t num_levels = config.num_levels();
  const bool encodes = module < num_levels;
  const std::int64_t l = encodes ? module + 1 : 2 * num_levels - module;
  const LevelConfig& level = config.levels[static_cast<std::size_t>(l - 1)];
  const auto units = [&](std::int64_t at) { return groups * (config.group_tokens() / config.cumulative_chunk(at)); };
  if (encodes) {
    const std::int64_t positions = units(l) / sequences;
    return static_cast<double>(stack_saved_bytes(level.encoder, part, level.dim, AttentionKind::stream,
                                                 {sequences, positions, positions}, element) +
                               2 * units(l) * level.dim * element);
  }
  const std::int64_t positions = config.decoder_positions(l);
  const StackShape shape{units(l), positions, part.ends() ? level.chunk : positions};
  const std::int64_t below = config.width(l - 1);
  return static_cast<double>(stack_saved_bytes(level.decoder, part, below, AttentionKind::group, shape, element) +
                             (shape.rows() + shape.output_rows()) * below * element);
}

// Elements of a boundary tensor that stand for one top-level group.
std::int64_t elements_of_a_group(const ModelConfig& config, const Boundary& tensor) {
  const auto units = [&](std::int64_t l) { return config.group_tokens() / config.cumulative_chunk(l); };
  if (tensor.kind != Boundary::Kind::stream) return units(tensor.level) * config.width(tensor.level);
  if (config.type == ModelType::vanilla) return config.dim;
  const std::int64_t module = module_of(config, tensor.level);
  if (module < config.num_levels()) return units(module + 1) * config.width(module + 1);
  const std::int64_t l = 2 * config.num_levels() - module;
  return units(l) * config.decoder_positions(l) * config.width(l - 1);
}

double steps_of_tree(std::int64_t ranks) {
  return ranks < 2 ? 0 : std::ceil(std::log2(static_cast<double>(ranks)));
}

PassCost sum_of(const std::vector<ModuleCost>& modules, PassCost ModuleCost::*pass) {
  PassCost sum;
  for (const ModuleCost& module : modules) {
    sum.flops += (module.*pass).flops;
    sum.bytes += (module.*pass).bytes;
  }
  return sum;
}

}  // namespace

PassCost RankCost::forward() const {
  return sum_of(modules, &ModuleCost::forward);
}
PassCost RankCost::backward() const {
  const PassCost input = sum_of(modules, &ModuleCost::backward);
  const PassCost weights = sum_of(modules, &ModuleCost::weights);
  return {input.flops + weights.flops, input.bytes + weights.bytes};
}

CostModel::CostModel(const RunConfig& config, const Cluster& cluster, const Plan& plan)
    : config_(config), cluster_(cluster), plan_(plan), element_(activation_bytes(config.train.precision)) {
  groups_per_sequence_ = config.model.num_groups(config.train.sequence_length);
  // Shards with equally many groups cost the same, but for their shares of the moments.
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, RankCost> known;
  for (std::int64_t rank = 0; rank < plan.ranks_per_replica(); ++rank) {
    const std::tuple key{plan.role(rank).stage, plan.groups(rank, plan.microbatch_size, groups_per_sequence_).count,
                         plan.zero ? plan.role(rank).shard : 0};
    const auto found = known.find(key);
    ranks_.push_back(found != known.end() ? found->second : known.emplace(key, cost_of(rank)).first->second);
  }
  // From GPUs (which alone compute in bf16) the weights are gathered in the memory of their host.
  if (plan.stages > 1 && config.train.precision == Precision::fp32) {
    ranks_.front().memory.staging += float_bytes * flat_size(parameters(config.model));
  }
}

RankCost CostModel::cost_of(std::int64_t rank) const {
  const ModelConfig& model = config_.model;
  const std::int64_t stage = plan_.role(rank).stage;
  const LayerRange layers = plan_.stage_of(rank).layers;
  const std::int64_t groups = plan_.groups(rank, plan_.microbatch_size, groups_per_sequence_).count;
  const double sequences = static_cast<double>(groups) / static_cast<double>(groups_per_sequence_);
  const std::vector<double> flops = layer_flops(model, config_.train.sequence_length);
  const std::vector<double> again = recompute_flops(model, config_.train.sequence_length);
  const std::vector<double> products = weight_gradient_flops(model, config_.train.sequence_length);
  RankCost cost;
  for (std::int64_t m = 0; m < num_modules(model); ++m) {
    const StackPart part = part_of(model, layers, m);
    if (part.empty()) continue;
    const std::int64_t first = module_layers(model, m).begin;
    const LayerRange hosted{first + part.begin, first + part.end};
    const auto elements = static_cast<double>(weights_read(model, hosted));
    const double weights = elements * static_cast<double>(element_);
    const double gradients = elements * static_cast<double>(float_bytes);
    const double kept =
        module_activations(model, m, part, plan_.microbatch_size, config_.train.sequence_length, groups, element_);
    const bool head = hosted.end == all_layers(model).end;
    const double logits = head ? sequences * static_cast<double>(config_.train.sequence_length * model.vocab_size) *
                                     static_cast<double>(element_)
                               : 0;
    double forward = 0;
    for (std::int64_t i = hosted.begin; i < hosted.end; ++i) forward += sequences * flops[static_cast<std::size_t>(i)];
    // Backward: the weights again, their gradients read and written; every activation again and its gradient.
    ModuleCost module{
        m, {forward, weights + 2 * (kept + logits)}, {2 * forward, weights + 2 * gradients + 4 * (kept + logits)}, {}};
    if (plan_.passes.recompute) {
      for (std::int64_t i = hosted.begin; i < hosted.end; ++i) {
        module.backward.flops += sequences * again[static_cast<std::size_t>(i)];
      }
      module.backward.bytes += weights + 2 * kept;
    }
    if (plan_.passes.split_backward) {
      // Its products read activations and their gradients; the head's weights are not among them.
      const double in_head = head ? static_cast<double>(model.vocab_size * model.dim) : 0;
      const double written = 2 * (elements - in_head) * static_cast<double>(float_bytes);
      for (std::int64_t i = hosted.begin; i < hosted.end; ++i) {
        module.weights.flops += sequences * products[static_cast<std::size_t>(i)];
      }
      module.weights.bytes = written + 2 * kept;
      module.backward.flops -= module.weights.flops;
      module.backward.bytes -= module.weights.bytes;
    }
    cost.modules.push_back(module);
  }
  const std::vector<ParameterSpec> hosted = hosted_parameters(model, layers);
  for (const ParameterSpec& spec : hosted) cost.num_parameters += spec.numel();
  cost.arena_bytes = stage_activation_bytes(model, layers, plan_.microbatch_size, config_.train.sequence_length, groups,
                                            element_, plan_.passes);
  cost.memory.weights =
      weight_bytes(flat_size(hosted), element_) + (plan_.passes.fp8 ? fp8_weight_bytes(model, layers) : 0);
  cost.memory.gradients = float_bytes * flat_size(hosted);
  cost.buckets = buckets_of(model, plan_, rank, hosted);
  const std::int64_t updated = plan_.zero ? num_owned(hosted, owned_ranges(cost.buckets)) : flat_size(hosted);
  cost.updated_parameters = updated;
  cost.memory.optimizer = 2 * float_bytes * updated;
  cost.memory.activations = plan_.max_in_flight(stage, plan_.num_microbatches()) * cost.arena_bytes;
  for (const Crossing& crossing : plan_.crossings) {
    if (crossing.from != stage || crossing.tensor.kind != Boundary::Kind::encoder_state || !crossing.returns) continue;
    cost.memory.staging =
        std::max(cost.memory.staging, groups * elements_of_a_group(model, crossing.tensor) * element_);
  }
  return cost;
}

const RankCost& CostModel::fullest() const {
  return *std::max_element(ranks_.begin(), ranks_.end(),
                           [](const RankCost& a, const RankCost& b) { return a.memory.total() < b.memory.total(); });
}

std::int64_t CostModel::memory_bytes() const {
  return fullest().memory.total();
}

std::int64_t CostModel::message_bytes(std::int64_t from, std::int64_t to, const Boundary& tensor) const {
  const GroupRange a = plan_.groups(from, plan_.microbatch_size, groups_per_sequence_);
  const GroupRange b = plan_.groups(to, plan_.microbatch_size, groups_per_sequence_);
  const std::int64_t common = std::min(a.begin + a.count, b.begin + b.count) - std::max(a.begin, b.begin);
  return std::max<std::int64_t>(common, 0) * elements_of_a_group(config_.model, tensor) * element_;
}

double CostModel::sent_bytes(std::int64_t rank, const Program& program) const {
  double bytes = 0;
  for (const Instruction& i : program) {
    if (i.op == Op::send) bytes += static_cast<double>(message_bytes(rank, i.peer, i.tensor));
  }
  return bytes;
}

double CostModel::seconds(const PassCost& pass) const {
  return std::max(pass.flops / cluster_.flops, pass.bytes / cluster_.memory_bandwidth);
}

double CostModel::forward_seconds(std::int64_t r) const {
  double sum = 0;
  for (const ModuleCost& module : rank(r).modules) sum += seconds(module.forward);
  return sum;
}

double CostModel::backward_seconds(std::int64_t r) const {
  double sum = 0;
  for (const ModuleCost& module : rank(r).modules) sum += seconds(module.backward);
  return sum;
}

double CostModel::weights_seconds(std::int64_t r) const {
  double sum = 0;
  for (const ModuleCost& module : rank(r).modules) sum += seconds(module.weights);
  return sum;
}

double CostModel::busiest_seconds() const {
  double most = 0;
  const RankCost* previous = nullptr;
  for (std::int64_t r = 0; r < num_ranks(); ++r) {
    // The first shard of a stage has the most groups, or one less than the most.
    if (previous != nullptr && previous->arena_bytes == rank(r).arena_bytes) continue;
    previous = &rank(r);
    most = std::max(most, forward_seconds(r) + backward_seconds(r) + weights_seconds(r));
  }
  return most * static_cast<double>(plan_.num_microbatches());
}

double CostModel::sum_seconds(std::int64_t r, const Bucket& bucket) const {
  const std::int64_t each = bucket.holders * num_ranks() / plan_.num_ranks;  // of a replica
  const auto bytes = static_cast<double>(float_bytes * bucket.num_elements());
  const std::int64_t replicas = plan_.num_ranks / num_ranks();
  PHOTON_EXPECT(r >= 0 && each >= 1, "a sum over {} ranks of each replica", each);
  return all_reduce_seconds(cluster_, {.count = each, .stride = 1}, bytes) +
         all_reduce_seconds(cluster_, {.count = replicas, .stride = num_ranks()}, bytes / static_cast<double>(each));
}

const ModuleCost& CostModel::module_cost(std::int64_t r, std::int64_t module) const {
  for (const ModuleCost& cost : rank(r).modules) {
    if (cost.module == module) return cost;
  }
  PHOTON_EXPECT(false, "rank {} has nothing of module {}", r, module);
  return rank(r).modules.front();
}

const Bucket& CostModel::bucket(std::int64_t r, std::int64_t module) const {
  for (const Bucket& found : rank(r).buckets) {
    if (found.module == module) return found;
  }
  PHOTON_EXPECT(false, "rank {} sums nothing of module {}", r, module);
  return rank(r).buckets.front();
}

double CostModel::small_sum_seconds() const {
  const std::int64_t ranks = plan_.num_ranks;
  const std::int64_t together = std::min(ranks, cluster_.ranks_per_node);
  const std::int64_t nodes = (ranks + cluster_.ranks_per_node - 1) / cluster_.ranks_per_node;
  return 2 * (steps_of_tree(together) * cluster_.within_node.latency +
              steps_of_tree(nodes) * cluster_.between_nodes.latency);
}

TimedProgram CostModel::timed(std::int64_t r, const Program& program, std::int64_t first_rank) const {
  using Kind = TimedInstruction::Kind;
  const RankCost& cost = rank(r);
  const auto parameters = static_cast<double>(cost.updated_parameters);
  TimedProgram result;
  for (const Instruction& i : program) {
    TimedInstruction t;
    t.name = i.str();
    switch (i.op) {
      case Op::forward:
        t.seconds = forward_seconds(r);
        t.memory = cost.arena_bytes;
        break;
      case Op::backward:
        t.seconds = i.module < 0 ? backward_seconds(r) : seconds(module_cost(r, i.module).backward);
        // Module by module, the first of the chain comes last.
        if (i.module < 0 || i.module == cost.modules.front().module) t.memory = -cost.arena_bytes;
        break;
      case Op::backward_input:
        t.seconds = backward_seconds(r);
        break;
      case Op::backward_weight:
        t.seconds = i.module < 0 ? weights_seconds(r) : seconds(module_cost(r, i.module).weights);
        if (i.module < 0 || i.module == cost.modules.front().module) t.memory = -cost.arena_bytes;
        break;
      case Op::step:
        t.seconds = parameters * (optimizer_traffic + static_cast<double>(weight_bytes(1, element_) - float_bytes)) /
                    cluster_.memory_bandwidth;
        break;
      case Op::send: {
        const Link& link = cluster_.link(first_rank + r, first_rank + i.peer);
        t.kind = Kind::send;
        const auto bytes = static_cast<double>(message_bytes(r, i.peer, i.tensor));
        t.seconds = bytes > 0 ? bytes / link.bandwidth : 0;
        t.latency = bytes > 0 ? link.latency : 0;
        break;
      }
      case Op::receive:
        t.kind = Kind::receive;
        break;
      case Op::all_reduce:
      case Op::reduce_scatter:
      case Op::all_gather: {
        t.kind = Kind::collective;
        t.group = 0;
        t.group_size = num_ranks();
        t.seconds = small_sum_seconds();
        if (i.module == -1) break;
        const Bucket& of = bucket(r, i.module);
        t.kind = Kind::start;
        t.group = i.module == Instruction::embedding ? 1 : 2 + plan_.role(r).stage;
        t.group_size = of.holders * num_ranks() / plan_.num_ranks;
        t.seconds = sum_seconds(r, of) / (i.op == Op::all_reduce ? 1 : 2);
        break;
      }
      case Op::wait:
        t.kind = Kind::finish;
        break;
      case Op::clip_norm:
        t.kind = Kind::collective;
        t.group = 0;
        t.group_size = num_ranks();
        t.seconds = parameters * norm_traffic / cluster_.memory_bandwidth + small_sum_seconds();
        break;
      default:
        PHOTON_EXPECT(false, "{} has no cost", i.str());
    }
    if (t.kind == Kind::send || t.kind == Kind::receive) {
      t.peer = i.peer;
      const auto kind = static_cast<std::int64_t>(i.tensor.kind) * 2 + (i.tensor.gradient ? 1 : 0);
      t.message = (i.microbatch * 16 + kind) * 1024 + i.tensor.level;
    }
    result.push_back(std::move(t));
  }
  return result;
}

}  // namespace photon
