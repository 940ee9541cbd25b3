#include "eval/drift.hpp"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <memory>

#include "eval/latents.hpp"
#include "kernels/linear.hpp"
#include "model/compute.hpp"
#include "model/incremental.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

constexpr std::int64_t default_batch_tokens = 8192;
constexpr std::int64_t logits_block = 256;           // positions whose logits are held at once
constexpr std::int64_t parallel_elements = 1 << 16;  // logits below which starting threads takes longer

// ln of the sum of exp(logits).
double log_sum(std::span<const float> logits, double largest) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return largest + std::log(sum);
}

// The same weights under other windows.
std::unique_ptr<PhotonModel> with_window(const PhotonModel& model, const Context& ctx, std::int64_t window) {
  ModelConfig config = model.config();
  for (std::int64_t l = 1; l < config.num_levels(); ++l)
    config.levels[static_cast<std::size_t>(l - 1)].encoder.window = window;
  auto other = std::make_unique<PhotonModel>(config, ctx.space, model.dtype(), Masters::norms);
  other->parameters().assign(model.parameters());
  return other;
}

class Meter {
 public:
  Meter(PhotonModel& model, const Context& ctx, const DriftOptions& options)
      : model_(model), ctx_(ctx), options_(options) {
    result_.bin = options.bin;
    result_.num_levels = model.config().num_levels();
    result_.exact.name = "hiergen";
    if (options.recgen) {
      result_.approximations.emplace_back().name = "recgen";
      models_.emplace_back();
    }
    for (const std::int64_t window : options.windows) {
      PathDrift& path = result_.approximations.emplace_back();
      path.name = fmt::format("window {}", window);
      path.window = window;
      models_.push_back(with_window(model, ctx, window));
    }
  }

  // Rows in their order: sums do not depend on how they are dealt to batches.
  void take(std::span<const DriftRow> rows) {
    const auto n = static_cast<std::int64_t>(rows.size());
    std::int64_t columns = 1;
    std::vector<std::int64_t> prompts;
    for (const DriftRow& row : rows) {
      columns = std::max(columns, static_cast<std::int64_t>(row.tokens.size()));
      prompts.push_back(row.prompt);
    }
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(n * columns), 0);
    for (std::int64_t b = 0; b < n; ++b) {
      const std::vector<std::int32_t>& own = rows[static_cast<std::size_t>(b)].tokens;
      std::copy(own.begin(), own.end(), tokens.begin() + b * columns);
    }
    const Batch batch{host_view(tokens.data(), {n, columns}), {}};
    reserve_scratch(ctx_, model_.config(), n, columns, model_.dtype());
    std::vector<PathStates> paths;
    paths.push_back(teacher_forced_states(model_, ctx_, batch));
    for (const auto& model : models_) {
      paths.push_back(model ? teacher_forced_states(*model, ctx_, batch) : recgen_states(model_, ctx_, batch, prompts));
    }
    for (std::int64_t b = 0; b < n; ++b) take_row(rows[static_cast<std::size_t>(b)], b, paths);
  }

  DriftResult finish() {
    result_.num_rows = num_rows_;
    for (DriftSums& bin : result_.exact.bins) result_.exact.total += bin;
    for (PathDrift& path : result_.approximations) {
      for (const DriftSums& bin : path.bins) path.total += bin;
    }
    return std::move(result_);
  }

 private:
  void take_row(const DriftRow& row, std::int64_t b, const std::vector<PathStates>& paths) {
    const auto length = static_cast<std::int64_t>(row.tokens.size());
    const std::int64_t vocab = model_.config().vocab_size;
    std::vector<Tensor> logits;
    for (std::size_t path = 0; path < paths.size(); ++path)
      logits.emplace_back(Space::host, DType::f32, Shape{logits_block, vocab}, "logits");
    bool counted = false;
    for (std::int64_t begin = row.prompt; begin < length; begin += logits_block) {
      const std::int64_t count = std::min(logits_block, length - begin);
      for (std::size_t path = 0; path < paths.size(); ++path) {
        head(paths[path].hidden.view().slice(0, b, 1).merge(0).slice(0, begin, count),
             logits[path].view().slice(0, 0, count));
      }
      for (std::size_t path = 1; path < paths.size(); ++path) {
        const std::vector<TokenDrift> drifts = compare(row, begin, count, logits[0], logits[path]);
        PathDrift& into = result_.approximations[path - 1];
        for (std::int64_t i = 0; i < count; ++i) {
          const std::int64_t position = begin + i;
          if (!counts(row, position)) continue;
          counted = true;
          const TokenDrift& drift = drifts[static_cast<std::size_t>(i)];
          DriftSums& sums = bin(into, position - row.prompt);
          ++sums.num_tokens;
          sums.num_agreeing += drift.agrees ? 1 : 0;
          sums.kl += drift.kl;
          sums.loss += drift.approx;
          add_cosines(sums, paths[0], paths[path], b, position);
          if (path > 1) continue;
          DriftSums& exact = bin(result_.exact, position - row.prompt);
          ++exact.num_tokens;
          ++exact.num_agreeing;
          exact.loss += drift.exact;
          for (double& level : exact.cosine) level += 1;
        }
      }
    }
    if (counted) ++num_rows_;
  }

  static bool counts(const DriftRow& row, std::int64_t position) {
    return row.mask.empty() || row.mask[static_cast<std::size_t>(position)] != 0;
  }

  DriftSums& bin(PathDrift& path, std::int64_t distance) const {
    const auto at = static_cast<std::size_t>(distance / options_.bin);
    DriftSums empty;
    empty.cosine.assign(static_cast<std::size_t>(result_.num_levels), 0.0);
    if (at >= path.bins.size()) path.bins.resize(at + 1, empty);
    return path.bins[at];
  }

  // states [n, D_0] -> logits [n, V] on the host.
  void head(const ConstTensorView& states, const TensorView& logits) const {
    if (ctx_.space == Space::host) {
      linear_forward(ctx_, states, model_.head_weight(), logits);
      return;
    }
    const Tensor here(ctx_.space, DType::f32, logits.shape(), "logits");
    linear_forward(ctx_, states, model_.head_weight(), here);
    copy(ctx_.stream, here, logits);
    device::synchronize(ctx_.stream);
  }

  static std::vector<TokenDrift> compare(const DriftRow& row, std::int64_t begin, std::int64_t count,
                                         const Tensor& exact, const Tensor& approx) {
    const std::int64_t vocab = exact.shape()[1];
    std::vector<TokenDrift> drifts(static_cast<std::size_t>(count));
    std::exception_ptr failure;
#pragma omp parallel for schedule(static) if (count * vocab > parallel_elements)
    for (std::int64_t i = 0; i < count; ++i) {
      const auto logits = [&](const Tensor& all) {
        return std::span<const float>(all.host<float>() + i * vocab, static_cast<std::size_t>(vocab));
      };
      try {
        drifts[static_cast<std::size_t>(i)] =
            compare_logits(logits(exact), logits(approx), row.tokens[static_cast<std::size_t>(begin + i)]);
      } catch (...) {
#pragma omp critical(photon_drift)
        failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(failure);
    return drifts;
  }

  void add_cosines(DriftSums& sums, const PathStates& exact, const PathStates& approx, std::int64_t b,
                   std::int64_t position) const {
    for (std::int64_t l = 1; l <= result_.num_levels; ++l) {
      const std::int64_t unit = position / model_.config().cumulative_chunk(l);
      const double value = cosine(exact.latent(l, b, unit), approx.latent(l, b, unit));
      if (!std::isfinite(value)) throw Error("the model's latents are not finite", fmt::format("c({})", l), "");
      sums.cosine[static_cast<std::size_t>(l - 1)] += value;
    }
  }

  PhotonModel& model_;
  const Context& ctx_;
  const DriftOptions& options_;
  std::vector<std::unique_ptr<PhotonModel>> models_;  // one an approximation; empty for RecGen
  std::int64_t num_rows_ = 0;
  DriftResult result_;
};

}  // namespace

TokenDrift compare_logits(std::span<const float> exact, std::span<const float> approx, std::int32_t token) {
  const auto finite = [](float x) { return std::isfinite(x); };
  if (!std::all_of(exact.begin(), exact.end(), finite) || !std::all_of(approx.begin(), approx.end(), finite)) {
    throw Error("the model's logits are not finite", "drift of them means nothing", "check the weights");
  }
  const auto best = std::max_element(exact.begin(), exact.end());
  const auto other = std::max_element(approx.begin(), approx.end());
  const double p_sum = log_sum(exact, static_cast<double>(*best));
  const double q_sum = log_sum(approx, static_cast<double>(*other));
  TokenDrift drift;
  drift.agrees = best - exact.begin() == other - approx.begin();
  double kl = 0;
  for (std::size_t v = 0; v < exact.size(); ++v) {
    const double log_p = static_cast<double>(exact[v]) - p_sum;
    kl += std::exp(log_p) * (log_p - (static_cast<double>(approx[v]) - q_sum));
  }
  drift.kl = kl < 0 ? 0 : kl;  // rounding may leave -1e-16 where they are equal
  const auto at = static_cast<std::size_t>(token);
  drift.exact = p_sum - static_cast<double>(exact[at]);
  drift.approx = q_sum - static_cast<double>(approx[at]);
  return drift;
}

DriftSums& DriftSums::operator+=(const DriftSums& other) {
  num_tokens += other.num_tokens;
  num_agreeing += other.num_agreeing;
  kl += other.kl;
  loss += other.loss;
  cosine.resize(std::max(cosine.size(), other.cosine.size()), 0.0);
  for (std::size_t i = 0; i < other.cosine.size(); ++i) cosine[i] += other.cosine[i];
  return *this;
}

double DriftSums::mean(double sum) const {
  return num_tokens > 0 ? sum / static_cast<double>(num_tokens) : std::numeric_limits<double>::quiet_NaN();
}

double DriftSums::perplexity() const {
  return std::exp(mean_loss());
}

void require_drift(const ModelConfig& config, const DriftOptions& options) {
  constexpr const char* problem = "drift cannot be measured";
  if (config.type == ModelType::vanilla)
    throw InputError(problem, "a vanilla model has no hierarchy, it decodes in one way only", "use photon eval");
  if (config.num_levels() < 2)
    throw InputError(problem,
                     "the model has one level: RecGen has nothing to roll out, and no encoder is below the top",
                     "use photon eval");
  if (options.recgen && config.lookback > 0) {
    throw InputError(
        "RecGen's drift cannot be measured",
        fmt::format("the model looks back at {} tokens, so its chunks depend on each other", config.lookback),
        "give --window N with --skip-recgen");
  }
  if (!options.recgen && options.windows.empty())
    throw InputError(problem, "there is nothing to compare HierGen with", "give --window N, or leave RecGen in");
  for (const std::int64_t window : options.windows) {
    if (window < 1)
      throw InputError(fmt::format("a window is {}", window), "it counts the units that an encoder sees",
                       "choose 1 or more");
  }
}

DriftResult measure_drift(Model& model, const Context& ctx, std::span<const DriftRow> rows, const DriftOptions& options,
                          const std::function<void()>& poll) {
  require_drift(model.config(), options);
  PHOTON_EXPECT(options.bin >= 1, "bins of {} tokens", options.bin);
  Meter meter(dynamic_cast<PhotonModel&>(model), ctx, options);
  for (std::size_t begin = 0; begin < rows.size();) {
    poll();
    std::int64_t columns = 1;
    std::size_t end = begin;
    while (end < rows.size()) {
      columns = std::max(columns, static_cast<std::int64_t>(rows[end].tokens.size()));
      const auto size = static_cast<std::int64_t>(end - begin) + 1;
      if (end > begin && (options.batch_size > 0 ? size > options.batch_size : size * columns > default_batch_tokens))
        break;
      ++end;
    }
    meter.take(rows.subspan(begin, end - begin));
    begin = end;
  }
  DriftResult result = meter.finish();
  if (result.exact.total.num_tokens == 0)
    throw InputError("no token counts", "no row goes on after its prompt, or the loss_mask leaves nothing",
                     "give longer texts, or fewer prompt tokens");
  return result;
}

}  // namespace photon
