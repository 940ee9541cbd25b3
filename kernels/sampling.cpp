#include "kernels/sampling.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/checks.hpp"
#include "kernels/cpu/loops.hpp"
#include "support/random.hpp"

namespace photon {

double sample_uniform(const SampleKey& key) {
  return random_uniform(key.seed, random_bits(key.request, key.sample, 0), key.position);
}

namespace {

void expect_options(const SampleRow& row, std::int64_t vocabulary) {
  const SamplingOptions& o = row.options;
  PHOTON_EXPECT(o.temperature >= 0 && std::isfinite(o.temperature), "a temperature of {}", o.temperature);
  PHOTON_EXPECT(o.top_k >= 0, "a top_k of {}", o.top_k);
  PHOTON_EXPECT(o.top_p > 0 && o.top_p <= 1, "a top_p of {}", o.top_p);
  PHOTON_EXPECT(o.min_p >= 0 && o.min_p <= 1, "a min_p of {}", o.min_p);
  PHOTON_EXPECT(o.repetition_penalty > 0 && std::isfinite(o.repetition_penalty), "a repetition penalty of {}",
                o.repetition_penalty);
  if (o.repetition_penalty == 1) return;
  for (const std::int32_t token : row.seen) {
    PHOTON_EXPECT(token >= 0 && token < vocabulary, "token {} seen, of {}", token, vocabulary);
  }
}

// The workspace of one thread.
struct Workspace {
  std::vector<float> penalised;
  std::vector<float> weights;       // proportional to the probabilities
  std::vector<std::int32_t> order;  // tokens; the first `sorted` in order of descending weight, then ascending index
  std::int64_t sorted = 0;
};

std::int64_t index_of_largest(const float* x, std::int64_t n) {
  return std::find(x, x + n, cpu::loops().largest(x, n)) - x;
}

// The logits after the repetition penalty: each seen token once, however often it was seen.
const float* penalise(const float* logits, std::int64_t n, const SampleRow& row, Workspace& work) {
  if (row.options.repetition_penalty == 1 || row.seen.empty()) return logits;
  work.penalised.assign(logits, logits + n);
  const auto penalty = static_cast<float>(row.options.repetition_penalty);
  for (const std::int32_t token : row.seen) {
    const float x = logits[token];
    work.penalised[static_cast<std::size_t>(token)] = x > 0 ? x / penalty : x * penalty;
  }
  return work.penalised.data();
}

// Sorts until at least `count` tokens are in order.
void sort_first(Workspace& work, std::int64_t count) {
  const auto size = static_cast<std::int64_t>(work.order.size());
  while (work.sorted < std::min(count, size)) {
    const std::int64_t next = std::min(size, std::max(count, 4 * work.sorted + 64));
    const auto likelier = [&work](std::int32_t a, std::int32_t b) {
      const float x = work.weights[static_cast<std::size_t>(a)];
      const float y = work.weights[static_cast<std::size_t>(b)];
      return x > y || (x == y && a < b);
    };
    const auto begin = work.order.begin() + work.sorted;
    const auto end = work.order.begin() + next;
    if (next < size) std::nth_element(begin, end, work.order.end(), likelier);
    std::sort(begin, end, likelier);
    work.sorted = next;
  }
}

double weight_at(const Workspace& work, std::int64_t i) {
  return static_cast<double>(work.weights[static_cast<std::size_t>(work.order[static_cast<std::size_t>(i)])]);
}

std::int64_t draw(const float* logits, std::int64_t n, const SampleRow& row, Workspace& work) {
  const SamplingOptions& o = row.options;
  const float shift = cpu::loops().largest(logits, n);
  work.weights.resize(static_cast<std::size_t>(n));
  // The temperature may be so small that its inverse overflows; the largest logit must keep its weight of 1.
  const auto factor =
      static_cast<float>(std::min(1.0 / o.temperature, static_cast<double>(std::numeric_limits<float>::max())));
  cpu::loops().write_exp(logits, shift, factor, 1.0F, n, work.weights.data());
  work.order.resize(static_cast<std::size_t>(n));
  std::iota(work.order.begin(), work.order.end(), 0);
  work.sorted = 0;

  // Each filter keeps the first so many tokens of the order, so only that number is carried from one to the next.
  std::int64_t kept = o.top_k > 0 ? std::min(o.top_k, n) : n;
  double total = 0;
  if (kept < n) {
    sort_first(work, kept);
    for (std::int64_t i = 0; i < kept; ++i) total += weight_at(work, i);
  } else {
    for (const float w : work.weights) total += static_cast<double>(w);
  }
  if (o.top_p < 1) {
    double sum = 0;
    std::int64_t i = 0;
    while (i < kept && sum < o.top_p * total) {
      sort_first(work, i + 1);
      sum += weight_at(work, i++);
    }
    kept = i;
    total = sum;
  }
  if (o.min_p > 0) {
    double sum = 0;
    std::int64_t i = 0;
    while (i < kept) {
      sort_first(work, i + 1);
      if (weight_at(work, i) < o.min_p) break;  // the largest weight is 1
      sum += weight_at(work, i++);
    }
    kept = i;
    total = sum;
  }
  const double target = sample_uniform(row.key) * total;
  double sum = 0;
  std::int64_t last = 0;  // the last token with any probability: rounding may leave the target at the very end
  for (std::int64_t i = 0; i < kept; ++i) {
    sort_first(work, i + 1);
    const double w = weight_at(work, i);
    if (w == 0) break;
    last = i;
    sum += w;
    if (sum > target) break;
  }
  return work.order[static_cast<std::size_t>(last)];
}

bool usable(const float* logits, std::int64_t n) {
  bool finite = false;
  bool broken = false;
  for (std::int64_t i = 0; i < n; ++i) {
    finite = finite || std::isfinite(logits[i]);
    broken = broken || std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity();
  }
  return finite && !broken;
}

}  // namespace

void sample(const Context& ctx, const ConstTensorView& logits, std::span<const SampleRow> rows,
            const TensorView& tokens, const TensorView& logprobs) {
  expect_rank(ctx, logits, DType::f32, 2, "logits");
  const std::int64_t num_rows = logits.size(0);
  const std::int64_t n = logits.size(1);
  PHOTON_EXPECT(static_cast<std::int64_t>(rows.size()) == num_rows, "{} sampling rows for {} rows of logits",
                rows.size(), num_rows);
  PHOTON_EXPECT(n > 0 || num_rows == 0, "logits of shape {}", logits.shape().str());
  const Context host;
  expect_tensor(host, tokens, DType::i32, {num_rows}, "tokens");
  if (logprobs) expect_tensor(host, logprobs, DType::f32, {num_rows}, "logprobs");
  for (const SampleRow& row : rows) expect_options(row, n);
  if (ctx.space == Space::device) return cuda::sample(ctx, logits, rows, tokens, logprobs);
  if (num_rows == 0) return;

  std::int32_t* chosen = tokens.host<std::int32_t>();
  std::atomic<std::int64_t> bad = num_rows;  // the first row that cannot be sampled
#pragma omp parallel if (num_rows > 1)
  {
    Workspace work;
#pragma omp for schedule(dynamic)
    for (std::int64_t r = 0; r < num_rows; ++r) {
      const float* raw = logits.host<float>() + r * logits.stride(0);
      if (!usable(raw, n)) {
        std::int64_t seen = bad.load();
        while (r < seen && !bad.compare_exchange_weak(seen, r)) {
        }
        continue;
      }
      const SampleRow& row = rows[static_cast<std::size_t>(r)];
      const float* x = penalise(raw, n, row, work);
      const std::int64_t token = row.options.temperature == 0 ? index_of_largest(x, n) : draw(x, n, row, work);
      chosen[r] = static_cast<std::int32_t>(token);
      if (logprobs) {
        const float shift = cpu::loops().largest(raw, n);
        logprobs.host<float>()[r] = static_cast<float>(static_cast<double>(raw[token]) - static_cast<double>(shift) -
                                                       std::log(cpu::loops().sum_exp(raw, shift, 1.0F, n)));
      }
    }
  }
  if (bad < num_rows) {
    throw InputError(fmt::format("row {} of the logits cannot be sampled", bad.load()),
                     "it holds NaN or infinity, or no finite value", "check the model's weights and precision");
  }
}

}  // namespace photon
