// The smaller parts of the trainer.
#include <gtest/gtest.h>

#include "config/run_config.hpp"
#include "model/model.hpp"
#include "support/error.hpp"
#include "testing/compare.hpp"
#include "testing/temporary.hpp"
#include "tiny_run.hpp"
#include "train/adamw_optimizer.hpp"
#include "train/console.hpp"
#include "train/loss_totals.hpp"
#include "train/memory_plan.hpp"
#include "train/run_folder.hpp"
#include "train/throughput.hpp"

namespace photon {
namespace {

ParameterSpec spec_of(std::int64_t offset, std::int64_t numel, bool decays) {
  ParameterSpec spec;
  spec.shape = {numel};
  spec.offset = offset;
  spec.decays = decays;
  return spec;
}

TEST(DecayRanges, CoverTheBufferAndJoinNeighbours) {
  const std::vector<ParameterSpec> specs{spec_of(0, 100, true), spec_of(128, 5, true), spec_of(192, 7, false),
                                         spec_of(256, 64, false), spec_of(320, 10, true)};
  const std::vector<DecayRange> expected{{0, 192, true}, {192, 320, false}, {320, flat_size(specs), true}};
  EXPECT_EQ(decay_ranges(specs), expected);
}

// With no gradient the update is the decay alone: matrices shrink, norms and the start latent stay.
TEST(AdamWOptimizer, DecaysMatricesOnly) {
  const testing::TinyData data;
  const RunConfig config = data.config();
  Parameters values(config.model, Space::host);
  initialize(values, 1);
  std::fill_n(values.view("start_latent").host<float>(), values.view("start_latent").numel(), 0.5F);
  const Parameters gradients(config.model, Space::host);
  AdamWOptimizer optimizer(parameters(config.model), config.train, Space::host);
  Parameters before(config.model, Space::host);
  copy(values.flat(), before.flat());
  optimizer.step({}, values, gradients, 0.5, 1, 1);
  for (const ParameterSpec& spec : values.specs()) {
    const bool matrix = spec.shape.size() == 2;
    EXPECT_EQ(spec.decays, matrix) << spec.name;
    const double factor = matrix ? 1 - 0.5 * config.train.weight_decay : 1;
    std::vector<double> expected;
    for (std::int64_t i = 0; i < spec.numel(); ++i) {
      expected.push_back(factor * static_cast<double>(before.view(spec.name).host<float>()[i]));
    }
    SCOPED_TRACE(spec.name);
    EXPECT_CLOSE(values.view(spec.name).host<float>(), expected.data(), spec.numel(), 1e-6);
  }
}

TEST(LossTotals, AreMeansOfSums) {
  ModelConfig model;
  model.levels.resize(3);
  LossTotals totals(model);
  LossSums sums;
  sums.ce = 6;
  sums.num_tokens = 4;
  sums.rec = {3, 1};
  sums.num_units = {2, 0};
  totals.add(sums);
  sums.ce = 4;
  sums.num_tokens = 1;
  totals.add(sums);
  EXPECT_DOUBLE_EQ(totals.ce(), 2);
  EXPECT_EQ(totals.num_tokens(), 5);
  EXPECT_EQ(totals.rec_levels(), (std::vector<double>{1.5, 0}));  // no units: no loss
  EXPECT_DOUBLE_EQ(totals.rec(), 1.5);
  EXPECT_DOUBLE_EQ(LossTotals(model).ce(), 0);
  sums.rec = {1};
  EXPECT_THROW(totals.add(sums), ContractError);
}

TEST(MemoryPlan, RefusesWhatDoesNotFitWithTheNumbers) {
  const testing::TinyData data;
  const RunConfig config = data.config();
  const MemoryPlan plan = plan_memory(config, 2);
  const std::int64_t flat = flat_size(parameters(config.model)) * 4;
  EXPECT_EQ(plan.weights, flat);
  EXPECT_EQ(plan.optimizer, 2 * flat);
  EXPECT_EQ(plan.arena, training_arena_bytes(config.model, 2, 16));
  EXPECT_EQ(plan.total(), 4 * flat + plan.arena);
  require_fit(plan, plan.total(), 2);
  EXPECT_ERROR(require_fit(plan, plan.total() - 1, 2), InputError, "set parallel.microbatch_size lower");
  EXPECT_ERROR(require_fit(plan, 0, 1), InputError, "a machine with more memory");
  EXPECT_GT(available_host_bytes(), 0);
  EXPECT_EQ(arena_budget(config, 0), 0);
  EXPECT_EQ(arena_budget(config, 4 * flat + 2000), 1000);
}

TEST(MemoryPlan, WritesBytesForPeople) {
  EXPECT_EQ(bytes_text(512), "0.5 KiB");
  EXPECT_EQ(bytes_text(3 << 20), "3.0 MiB");
  EXPECT_EQ(bytes_text(std::int64_t{5} << 29), "2.50 GiB");
}

TEST(RunFolder, NamesTheKeysThatChanged) {
  const testing::TinyData data;
  const RunConfig before = data.config();
  EXPECT_TRUE(changed_keys(before, before).empty());
  const auto changes = changed_keys(before, data.config({"train.steps=9", "model.levels.1.chunk=3"}));
  EXPECT_EQ(changes, (std::vector<std::string>{"model.levels[1].chunk: 2 -> 3", "train.steps: 6 -> 9"}));
}

TEST(RunFolder, StoresTheConfiguration) {
  const testing::TinyData data;
  const RunFolder folder(data / "run");
  folder.create();
  EXPECT_FALSE(folder.stored_config());
  folder.store_config(data.config());
  EXPECT_EQ(*folder.stored_config(), data.config());
  testing::write_bytes(data / "file", "");
  EXPECT_ERROR(RunFolder(data / "file").create(), InputError, "it is not a folder");
}

TEST(RunFolder, SetsAsideUnderTheFirstFreeName) {
  const testing::TemporaryFolder folder;
  const RunFolder run(folder / "run/");
  EXPECT_FALSE(run.set_aside());
  for (const char* name : {"run.old-1", "run.old-2"}) {
    run.create();
    EXPECT_EQ(run.set_aside()->filename(), name);
  }
}

TEST(Console, WritesDurationsForPeople) {
  EXPECT_EQ(duration_text(0.4), "0s");
  EXPECT_EQ(duration_text(59.6), "1m00s");
  EXPECT_EQ(duration_text(3725), "1h02m");
}

TEST(Console, ShowsStepLossRateAndTimeLeft) {
  Console console(100, 0, true);
  StepRecord record;
  record.step = 40;
  record.loss = 2.34567;
  record.lr = 3e-4;
  record.grad_norm = 1.5;
  record.tokens_per_second = 12345;
  record.seconds = 2;
  console.show(record);
  EXPECT_EQ(console.line(record), "step 40/100  loss 2.3457  lr 0.0003  grad norm 1.5  12.3k tokens/s  2m00s left");
  record.mfu = 0.4321;
  EXPECT_NE(console.line(record).find("12.3k tokens/s  MFU 43.2 %  2m00s left"), std::string::npos);
  record.skipped = true;
  EXPECT_NE(console.line(record).find("(skipped)"), std::string::npos);
}

TEST(Throughput, MeasuresWholeSteps) {
  const testing::TinyData data;
  RunConfig config = data.config();
  config.parallel.microbatch_size = 3;
  const Throughput result = measure_training(config, 1, 3);
  EXPECT_EQ(result.step_seconds.size(), 3U);
  EXPECT_DOUBLE_EQ(result.tokens_per_second, 6 * 16 / result.median_seconds);
  EXPECT_GT(result.matrix_gflops, 0);
  EXPECT_GT(result.model_gflops, 0);
}

}  // namespace
}  // namespace photon
