// RecGen: the coarse stream runs ahead, then all chunks decode together.
#include <algorithm>

#include "kernels/embedding.hpp"
#include "kernels/few_rows.hpp"
#include "kernels/slot_rows.hpp"
#include "model/photon_decoder.hpp"

namespace photon {
namespace {

constexpr std::int32_t nowhere = -(1 << 30);  // where padding rows' units go, however far they are shifted
// Groups of the levels between the top and level 1 that are rendered at a time.
constexpr std::int64_t most_middle_rows = 1024;
// Groups of a few rows that are queued, and recorded, as one: a device idles where one record follows another.
constexpr std::int64_t groups_together = 4;

}  // namespace

void PhotonDecoder::render_own(std::int64_t l, const ConstTensorView& c, const TensorView& y) {
  const auto unit = [&](std::int64_t j) { return y.slice(1, j, 1).merge(1); };
  local(l).start(arena_, c, {}, {}, unit(0));
  for (std::int64_t j = 0; j + 1 < level_config(l).chunk; ++j) local(l).next(arena_, j, unit(j), unit(j + 1));
}

void PhotonDecoder::roll_group(std::int64_t rows) {
  const ArenaScope scope(arena_);
  const std::int64_t top = config_.num_levels();
  const std::int64_t chunk = level_config(top).chunk;
  const std::int64_t unit_width = chunk * config_.width(top - 1);
  const TensorView c = arena_.allocate(dtype_, {rows, config_.width(top)});
  const TensorView x = arena_.allocate(dtype_, c.shape());
  const TensorView y = arena_.allocate(dtype_, {rows, chunk, config_.width(top - 1)});
  const TensorView slot = roll_slot_.view().slice(0, 0, rows);
  const TensorView at = roll_at_.view().slice(0, 0, 2 * rows);
  const TensorView groups = rolled_.view().reshape({rolled_.numel() / unit_width, unit_width});
  embedding_forward(ctx_, latents_, slot, c);
  render_own(top, c, y);
  scatter_rows(ctx_, y.reshape({rows, unit_width}), at.slice(0, rows, rows), groups);
  advance_encoder(top, y, slot, at.slice(0, 0, rows), x);
  scatter_rows(ctx_, x, slot, latents_.view());
  shift_indices(ctx_, at, 1);
}

ConstTensorView PhotonDecoder::roll_out(std::span<const std::int64_t> slots, std::int64_t num_groups) {
  require_recgen(config_);
  const auto n = static_cast<std::int64_t>(slots.size());
  PHOTON_EXPECT(n > 0 && num_groups > 0, "a roll-out of {} groups of {} rows", num_groups, n);
  const std::int64_t top = config_.num_levels();
  const std::int64_t chunk = level_config(top).chunk;
  const std::int64_t rows = steps_.padded(n);
  std::vector<std::int32_t> slot(static_cast<std::size_t>(rows), static_cast<std::int32_t>(total_slots_ - 1));
  std::vector<std::int32_t> latent(static_cast<std::size_t>(rows), static_cast<std::int32_t>(total_slots_));
  // Each row's next position, then the place of its next group.
  std::vector<std::int32_t> at(static_cast<std::size_t>(rows), 0);
  at.resize(static_cast<std::size_t>(2 * rows), nowhere);
  for (std::int64_t i = 0; i < n; ++i) {
    const auto row = static_cast<std::size_t>(i);
    Slot& s = slots_[static_cast<std::size_t>(checked(slots[row]))];
    PHOTON_EXPECT(s.length + num_groups * group_tokens() <= max_tokens_, "slot {} has no room for {} groups",
                  slots[row], num_groups);
    slot[row] = static_cast<std::int32_t>(slots[row]);
    latent[row] = latent_row(slots[row]);
    at[row] = static_cast<std::int32_t>(s.length / group_tokens());
    at[static_cast<std::size_t>(rows) + row] = static_cast<std::int32_t>(i * num_groups);
    s.length += num_groups * group_tokens();
    s.coarse_only = true;
  }
  reserve(steps_.padded(ctx_.space == Space::device ? std::max(n, num_slots_) : n), false);
  const std::int64_t width = config_.width(top - 1);
  const std::int64_t total = n * num_groups * chunk;
  if (rolled_.numel() < total * width || roll_slot_.numel() < rows) {
    if (ctx_.space == Space::device) device::synchronize(ctx_.stream);
    recorded_rolls_.clear();
    const std::int64_t most = std::max(rows, roll_slot_.numel());
    roll_slot_ = Tensor(ctx_.space, DType::i32, {most}, "a roll-out's slots");
    roll_at_ = Tensor(ctx_.space, DType::i32, {2 * most}, "a roll-out's positions and places");
    if (rolled_.numel() < total * width) rolled_ = Tensor(ctx_.space, dtype_, {total, width}, "a coarse roll-out");
  }
  copy(ctx_.stream, host_view(slot.data(), {rows}), roll_slot_.view().slice(0, 0, rows));
  copy(ctx_.stream, host_view(at.data(), {2 * rows}), roll_at_.view().slice(0, 0, 2 * rows));
  {
    // Rows without tokens begin at the start latent.
    const ArenaScope scope(arena_);
    const TensorView from = arena_.allocate(DType::i32, {rows});
    const TensorView c = arena_.allocate(dtype_, {rows, config_.width(top)});
    copy(ctx_.stream, host_view(latent.data(), {rows}), from);
    embedding_forward(ctx_, latents_, from, c);
    scatter_rows(ctx_, c, roll_slot_.view().slice(0, 0, rows), latents_.view());
  }
  for (std::int64_t g = 0; g < num_groups;) {
    const std::int64_t count = rows <= most_few_rows && num_groups - g >= groups_together ? groups_together : 1;
    const auto run = [&] {
      for (std::int64_t i = 0; i < count; ++i) roll_group(rows);
    };
    if (ctx_.space == Space::device && graphs_) {
      RecordedRoll& recorded = recorded_rolls_[{rows, count}];
      run_recorded(ctx_, recorded.num_runs, recorded.graph, run);
    } else {
      run();
    }
    g += count;
    between_groups();
  }
  // The levels between: every group of every row side by side, a bounded number at a time.
  ConstTensorView current = rolled_.view().slice(0, 0, total);
  middle_.resize(static_cast<std::size_t>(top));
  for (std::int64_t l = top - 1; l >= 2; --l) {
    const std::int64_t groups = current.size(0);
    const std::int64_t units = level_config(l).chunk;
    Tensor& next = middle_[static_cast<std::size_t>(l)];
    if (next.numel() < groups * units * config_.width(l - 1)) {
      if (ctx_.space == Space::device) device::synchronize(ctx_.stream);
      next = Tensor(ctx_.space, dtype_, {groups * units, config_.width(l - 1)}, "a coarse roll-out");
    }
    reserve(std::min(groups, most_middle_rows), false);
    for (std::int64_t begin = 0; begin < groups; begin += most_middle_rows) {
      const std::int64_t count = std::min(most_middle_rows, groups - begin);
      render_own(l, current.slice(0, begin, count), next.view().slice(0, begin * units, count * units).split(0, count));
    }
    current = next.view().slice(0, 0, groups * units);
  }
  return current.reshape({n, current.size(0) / n, config_.width(1)});
}

ConstTensorView PhotonDecoder::rolled(std::int64_t l, std::int64_t rows, std::int64_t num_groups) const {
  PHOTON_EXPECT(l >= 1 && l < config_.num_levels(), "rolled-out latents of level {}", l);
  const Tensor& all = l == config_.num_levels() - 1 ? rolled_ : middle_[static_cast<std::size_t>(l + 1)];
  const std::int64_t units = num_groups * (group_tokens() / config_.cumulative_chunk(l));
  return all.view()
      .reshape({all.numel() / config_.width(l), config_.width(l)})
      .slice(0, 0, rows * units)
      .split(0, rows);
}

void PhotonDecoder::start_chunks(const ConstTensorView& latents, const ChunkStep& step) {
  require_recgen(config_);
  const auto n = static_cast<std::int64_t>(step.slots.size());
  if (n == 0) return;
  const std::int64_t chunk = level_config(1).chunk;
  StepInput input;
  input.indices.resize(1);
  input.padding = {static_cast<std::int32_t>(step.latents[0])};
  input.forced.assign(static_cast<std::size_t>(n * chunk), draw_token);
  if (!step.forced.empty()) input.forced.assign(step.forced.begin(), step.forced.end());
  input.padding_draw.slot = total_slots_ - 1;
  for (std::size_t i = 0; i < step.slots.size(); ++i) {
    input.indices[0].push_back(static_cast<std::int32_t>(step.latents[i]));
    input.draws.push_back(draw_row(step.draws[i].options, step.draws[i].key, checked(step.slots[i])));
  }
  reserve(chunks_.padded(n), true);
  // Recorded with the latents' address, which a larger roll-out may have changed.
  if (latents.data() != chunk_latents_) chunks_.forget_graphs();
  chunk_latents_ = latents.data();
  chunks_.run(input, !watched_, [&](const StepBlock& block) {
    const ArenaScope scope(arena_);
    const std::int64_t rows = block.rows;
    const TensorView c = arena_.allocate(dtype_, {rows, config_.width(1)});
    embedding_forward(ctx_, latents, block.indices[0], c);
    ChunkCall call;
    call.history = history_;
    if (watched_) {
      call.watch = [this](const ConstTensorView& logits, std::int64_t begin, std::int64_t at) {
        show_logits(ctx_, logits, begin, at);
      };
    }
    chunk_->decode(arena_, block, c, call, {});
  });
  watched_ = TensorView();
}

}  // namespace photon
