#include "train/trainer.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <limits>
#include <memory>

#include "eval/eval.hpp"
#include "model/photon_model.hpp"
#include "testing/compare.hpp"
#include "tiny_run.hpp"

namespace photon {
namespace {

using testing::Environment;
using testing::expect_same_run;
using testing::metrics_of;
using testing::TinyData;
using testing::weights_of;

// The real model, with something done before each call; the call's number counts from 1.
struct Hooks {
  std::function<void(int)> before_backward = [](int) {};
  std::function<void(int)> before_evaluate = [](int) {};
  std::function<void(int, Parameters&)> after_backward = [](int, Parameters&) {};
};
class HookedModel : public PhotonModel {
 public:
  HookedModel(const ModelConfig& config, Space space, Hooks hooks)
      : PhotonModel(config, space), hooks_(std::move(hooks)) {}
  LossSums forward_backward(const Context& ctx, const Batch& batch, const LossScales& scales, const RecLossOptions& rec,
                            Parameters& gradients, Write write) override {
    hooks_.before_backward(++backwards_);
    LossSums sums = PhotonModel::forward_backward(ctx, batch, scales, rec, gradients, write);
    hooks_.after_backward(backwards_, gradients);
    return sums;
  }
  LossSums evaluate(const Context& ctx, const Batch& batch, const RecLossOptions& rec, const TensorView& token_loss,
                    const TensorView& argmax) override {
    hooks_.before_evaluate(++evaluations_);
    return PhotonModel::evaluate(ctx, batch, rec, token_loss, argmax);
  }

 private:
  Hooks hooks_;
  int backwards_ = 0;
  int evaluations_ = 0;
};

ModelFactory hooked(Hooks hooks) {
  return [hooks](const ModelConfig& config, Space space, std::int32_t, DType) {
    return std::make_unique<HookedModel>(config, space, hooks);
  };
}

void train(const RunConfig& config, const TrainOptions& options, const ModelFactory& factory = make_model) {
  World world;
  Trainer(world, config, options, factory).run();
}
void train(const RunConfig& config, const std::filesystem::path& run, const ModelFactory& factory = make_model) {
  train(config, TrainOptions{.run = run, .init_from = {}, .fresh = false}, factory);
}

class TrainerTest : public ::testing::Test {
 protected:
  // More threads than such a small model can use only wait for each other.
  TrainerTest() { omp_set_num_threads(1); }

  // The run that nothing disturbs.
  std::filesystem::path straight(const std::vector<std::string>& overrides = {}) {
    train(data_.config(overrides), data_ / "straight");
    return data_ / "straight";
  }
  std::filesystem::path run() const { return data_ / "run"; }

  TinyData data_;
};

TEST_F(TrainerTest, LearnsAndKeepsARunFolder) {
  const auto folder = straight({"train.steps=30", "train.keep_checkpoints=2"});
  const auto lines = metrics_of(folder);
  ASSERT_EQ(lines.size(), 30U);
  EXPECT_NEAR(lines.front()["ce"].get<double>(), std::log(259), 0.2);
  EXPECT_LT(lines.back()["ce"].get<double>(), lines.front()["ce"].get<double>() - 0.5);
  for (const auto& line : lines) {
    EXPECT_DOUBLE_EQ(line["loss"].get<double>(), line["ce"].get<double>() + 0.3 * line["rec"].get<double>());
    EXPECT_EQ(line["tokens"], line["step"].get<int>() * 6 * 16);
    EXPECT_EQ(line.contains("val_loss"), line["step"].get<int>() % 3 == 0);
  }
  // Bytes with an eos after the document: tokens = bytes + 1.
  EXPECT_NEAR(lines.back()["val_bits_per_byte"].get<double>(), lines.back()["val_ce"].get<double>() / std::log(2),
              0.05);
  EXPECT_EQ(testing::names_in(folder / "checkpoints"), (std::vector<std::string>{"step-28", "step-30"}));
  EXPECT_TRUE(std::filesystem::exists(folder / "LATEST"));
  EXPECT_TRUE(std::filesystem::exists(folder / "model" / "config.json"));
  EXPECT_TRUE(std::filesystem::exists(folder / "logs" / "rank-0.log"));
  const RunConfig stored = load_run_config((folder / "config.yaml").string(), {});
  EXPECT_EQ(stored.model.tokenizer, "byte");
  EXPECT_EQ(stored.parallel.microbatch_size, 6);
}

TEST_F(TrainerTest, StoppedByASignalContinuesBitForBit) {
  omp_set_num_threads(2);
  const auto expected = straight();
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1, SIGUSR2}) {
    const auto folder = data_ / ("run-" + std::to_string(signal));
    const auto stop = hooked({.before_backward = [&](int call) {
      if (call == 3) raise(signal);
    }});
    EXPECT_ERROR(train(data_.config(), folder, stop), Preempted, "after step 3 of 6, which is saved");
    EXPECT_EQ(metrics_of(folder).size(), 3U);
    train(data_.config(), folder);
    expect_same_run(folder, expected);
  }
}

TEST_F(TrainerTest, StoppedDuringAnEvaluationMakesUpForIt) {
  const auto expected = straight();
  // The first evaluation follows step 3, the second step 6, the last one.
  for (const int evaluation : {1, 6}) {
    const auto folder = data_ / ("run-" + std::to_string(evaluation));
    const auto stop = hooked({.before_evaluate = [&](int call) {
      if (call == evaluation) raise(SIGTERM);
    }});
    EXPECT_ERROR(train(data_.config({"parallel.microbatch_size=1"}), folder, stop), Preempted, "which is saved");
    const auto lines = metrics_of(folder);
    ASSERT_FALSE(lines.empty());
    EXPECT_EQ(lines.back()["step"].get<int>(), 3);
    EXPECT_FALSE(lines.back().contains("val_loss"));
    train(data_.config({"parallel.microbatch_size=1"}), folder);
    EXPECT_EQ(metrics_of(folder).size(), 6U);
    EXPECT_TRUE(metrics_of(folder)[2].contains("val_loss"));
  }
  train(data_.config({"parallel.microbatch_size=1"}), data_ / "straight-1");
  expect_same_run(data_ / "run-1", data_ / "straight-1");
  expect_same_run(data_ / "run-6", data_ / "straight-1");
}

TEST_F(TrainerTest, StoppedInTheLastEvaluationFinishesLater) {
  const auto expected = straight({"train.eval_every=0"});
  const auto stop = hooked({.before_evaluate = [](int) { raise(SIGUSR1); }});
  EXPECT_ERROR(train(data_.config({"train.eval_every=0"}), run(), stop), Preempted, "SIGUSR1 after step 6 of 6");
  train(data_.config({"train.eval_every=0"}), run());
  expect_same_run(run(), expected);
}

TEST_F(TrainerTest, StoppedBeforeTheFirstStepKeepsTheBeginning) {
  const auto expected = straight();
  const ModelFactory stop = [](const ModelConfig& config, Space space, std::int32_t start, DType dtype) {
    raise(SIGTERM);
    return make_model(config, space, start, dtype);
  };
  EXPECT_ERROR(train(data_.config(), run(), stop), Preempted, "after step 0 of 6");
  train(data_.config(), run());
  expect_same_run(run(), expected);
}

TEST_F(TrainerTest, AFinishedRunIsLeftAsItIs) {
  const auto folder = straight();
  const std::string metrics = testing::read_bytes(folder / "metrics.jsonl");
  train(data_.config(), folder, hooked({.before_backward = [](int) { FAIL() << "a finished run trained"; }}));
  EXPECT_EQ(testing::read_bytes(folder / "metrics.jsonl"), metrics);
}

TEST_F(TrainerTest, AllowsMoreStepsAndOtherRates) {
  const auto folder = straight();
  train(data_.config({"train.steps=8", "train.learning_rate=0.02"}), folder);
  const auto lines = metrics_of(folder);
  ASSERT_EQ(lines.size(), 8U);
  EXPECT_EQ(lines.back()["tokens"], 8 * 6 * 16);
  EXPECT_EQ(load_run_config((folder / "config.yaml").string(), {}).train.steps, 8);
}

TEST_F(TrainerTest, RefusesAnotherModelInTheSameFolder) {
  const auto folder = straight();
  EXPECT_ERROR(train(data_.config({"model.levels.0.encoder.layers=2"}), folder), InputError,
               "model.levels[0].encoder.layers: 1 -> 2");
  EXPECT_EQ(metrics_of(folder).size(), 6U);
}

TEST_F(TrainerTest, FreshSetsTheOldRunAside) {
  const auto folder = straight();
  const std::string metrics = testing::read_bytes(folder / "metrics.jsonl");
  train(data_.config({"train.steps=2", "train.warmup_steps=0"}), {.run = folder, .init_from = {}, .fresh = true});
  EXPECT_EQ(metrics_of(folder).size(), 2U);
  EXPECT_EQ(testing::read_bytes(data_ / "straight.old-1/metrics.jsonl"), metrics);
  train(data_.config({"train.steps=1", "train.warmup_steps=0"}), {.run = folder, .init_from = {}, .fresh = true});
  EXPECT_EQ(metrics_of(data_ / "straight.old-2").size(), 2U);
  EXPECT_EQ(testing::read_bytes(data_ / "straight.old-1/metrics.jsonl"), metrics);
}

TEST_F(TrainerTest, FreshWithoutDataLeavesTheOldRunWhereItIs) {
  const auto folder = straight();
  EXPECT_ERROR(train(data_.config({"data.train=none.h5"}), {.run = folder, .init_from = {}, .fresh = true}), InputError,
               "none.h5");
  EXPECT_EQ(metrics_of(folder).size(), 6U);
  EXPECT_FALSE(std::filesystem::exists(data_ / "straight.old-1"));
}

TEST_F(TrainerTest, ACheckChangesNothing) {
  TrainOptions options{.run = run(), .init_from = {}, .fresh = false};
  options.check = true;
  train(data_.config(), options);
  EXPECT_FALSE(std::filesystem::exists(run()));
  EXPECT_ERROR(train(data_.config({"data.train=none.h5"}), options), InputError, "none.h5");
  options.init_from = data_ / "nowhere";
  EXPECT_ERROR(train(data_.config(), options), InputError, "nowhere is no model");
  // Beside a run: another model is found, and the run stays as it is.
  options = {.run = straight(), .init_from = {}, .fresh = false};
  options.check = true;
  const auto listing = [&] {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(options.run)) names.push_back(entry.path());
    std::sort(names.begin(), names.end());
    return names;
  };
  const auto before = listing();
  EXPECT_ERROR(train(data_.config({"model.dim=16"}), options), InputError, "holds a run of another model");
  train(data_.config({"train.steps=9"}), options);
  EXPECT_EQ(listing(), before);
}

TEST_F(TrainerTest, ATimeLimitStopsAsASignalDoes) {
  const auto expected = straight();
  TrainOptions options{.run = run(), .init_from = {}, .fresh = false};
  options.time_limit = 1e-9;  // over before the first step
  EXPECT_ERROR(train(data_.config(), options), Preempted, "stopped by --time-limit after step 0 of 6, which is saved");
  options.time_limit = 3600;
  train(data_.config(), options);
  expect_same_run(run(), expected);
}

TEST_F(TrainerTest, OneRunHasOneTrainer) {
  const RunFolder folder(run());
  folder.create();
  const RunLock lock(folder);
  EXPECT_ERROR(train(data_.config(), run()), InputError, "another photon train runs there");
}

TEST_F(TrainerTest, CutsTheMetricsBackToTheCheckpoint) {
  const auto folder = straight();
  const auto expected = metrics_of(folder);
  const std::string weights = weights_of(folder);
  std::filesystem::remove_all(folder / "checkpoints" / "step-6");
  train(data_.config(), folder);  // from step 4, with the lines of 5 and 6 already there
  EXPECT_EQ(metrics_of(folder), expected);
  EXPECT_EQ(weights_of(folder), weights);
}

TEST_F(TrainerTest, StartsFromGivenWeights) {
  const auto folder = straight();
  train(data_.config({"train.steps=1", "train.warmup_steps=0"}), {.run = run(), .init_from = folder, .fresh = false});
  // The first step's loss is that of the trained weights.
  EXPECT_LT(metrics_of(run())[0]["ce"].get<double>(), metrics_of(folder)[0]["ce"].get<double>() - 0.05);
  EXPECT_ERROR(train(data_.config({"model.dim=16"}), {.run = data_ / "other", .init_from = folder, .fresh = false}),
               InputError, "another model than the configuration describes");
}

// The loss is normalised over the whole batch, so the cut into microbatches changes nothing but rounding.
TEST_F(TrainerTest, MicrobatchesChangeOnlyRounding) {
  const auto expected = metrics_of(straight());
  for (const int size : {1, 2, 3}) {
    const auto folder = data_ / ("micro-" + std::to_string(size));
    train(data_.config({"parallel.microbatch_size=" + std::to_string(size)}), folder);
    const auto lines = metrics_of(folder);
    ASSERT_EQ(lines.size(), expected.size());
    for (std::size_t i = 0; i < lines.size(); ++i) {
      for (const char* key : {"loss", "ce", "rec", "grad_norm"}) {
        const double a = lines[i][key].get<double>();
        const double b = expected[i][key].get<double>();
        SCOPED_TRACE(std::string(key) + " of step " + std::to_string(i + 1));
        EXPECT_CLOSE(&a, &b, 1, 1e-4);
      }
    }
  }
}

// Whatever the backward computes again, steps stay the same.
TEST_F(TrainerTest, RecomputingTrainsTheSameBits) {
  const auto kept = metrics_of(straight({"parallel.recompute=none"}));
  train(data_.config({"parallel.recompute=layers"}), run());
  const auto recomputed = metrics_of(run());
  ASSERT_EQ(kept.size(), recomputed.size());
  for (std::size_t i = 0; i < kept.size(); ++i) {
    for (const char* key : {"loss", "grad_norm"}) EXPECT_EQ(kept[i][key], recomputed[i][key]) << "step " << i + 1;
  }
}

// Microbatches of unequal weight: the mean is taken over the tokens of the whole batch that count.
TEST_F(TrainerTest, MaskedTokensDoNotCount) {
  const std::string data = "data.train=" + data_.masked().string();
  train(data_.config({data, "train.steps=2"}), data_ / "whole");
  train(data_.config({data, "train.steps=2", "parallel.microbatch_size=1"}), data_ / "cut");
  const auto whole = metrics_of(data_ / "whole");
  const auto cut = metrics_of(data_ / "cut");
  for (std::size_t i = 0; i < 2; ++i) {
    for (const char* key : {"ce", "rec", "grad_norm"}) {
      const double a = cut[i][key].get<double>();
      const double b = whole[i][key].get<double>();
      SCOPED_TRACE(std::string(key) + " of step " + std::to_string(i + 1));
      EXPECT_CLOSE(&a, &b, 1, 1e-5);
    }
  }
  // The first step by hand: fresh weights on samples 0 .. 5.
  const RunConfig config = data_.config({data});
  const auto model = make_model(config.model, Space::host, 0);
  initialize(model->parameters(), config.train.seed);
  double sum = 0;
  std::int64_t count = 0;
  const Samples samples(config.data.train, 16, config.train.seed, 259);
  for (std::uint64_t i = 0; i < 6; ++i) {
    std::vector<std::int32_t> tokens(16);
    std::vector<std::uint8_t> mask(16);
    samples.read(i, tokens.data(), mask.data());
    Tensor losses(Space::host, DType::f32, {1, 16});
    model->evaluate({}, {host_view(tokens.data(), {1, 16}), {}}, {}, losses, {});
    for (std::size_t t = 0; t < 16; ++t) {
      if (mask[t] == 0) continue;
      sum += static_cast<double>(losses.host<float>()[t]);
      ++count;
    }
  }
  ASSERT_LT(count, 6 * 16);
  const double expected = sum / static_cast<double>(count);
  const double found = whole[0]["ce"].get<double>();
  EXPECT_CLOSE(&found, &expected, 1, 1e-6);
}

// What the trainer measures between steps is what `photon eval` measures.
TEST_F(TrainerTest, EvaluatesLikeTheEvaluation) {
  const auto folder = straight();
  const LoadedModel loaded = resolve_model(folder);
  const auto model = make_model(loaded.config, Space::host, 0);
  copy(loaded.parameters.flat(), model->parameters().flat());
  EvalOptions options;
  options.sequence_length = 16;
  const EvalResult result = evaluate_dataset(*model, {}, TokenFile::open(data_ / "data/val.h5"), options, [] {});
  const auto last = metrics_of(folder).back();
  const std::vector<double> found{last["val_ce"].get<double>(), last["val_bits_per_byte"].get<double>(),
                                  last["val_rec"].get<double>()};
  const std::vector<double> expected{result.ce, result.bits_per_byte(), result.rec.at(0)};
  for (std::size_t i = 0; i < 3; ++i) EXPECT_CLOSE(&found[i], &expected[i], 1, 1e-6);
  EXPECT_EQ(last["val_tokens"], result.num_tokens);
}

TEST_F(TrainerTest, EvaluatesAsManySequencesAsItIsTold) {
  train(data_.config({"train.steps=2", "train.eval_sequences=3", "parallel.microbatch_size=2"}), run());
  EXPECT_EQ(metrics_of(run()).back()["val_tokens"], 3 * 16);
}

TEST_F(TrainerTest, SkipsStepsThatAreNotFinite) {
  const auto poison = hooked({.after_backward = [](int call, Parameters& gradients) {
    if (call == 2 || call == 4) gradients.flat().host<float>()[3] = std::numeric_limits<float>::quiet_NaN();
  }});
  train(data_.config(), run(), poison);
  const auto lines = metrics_of(run());
  ASSERT_EQ(lines.size(), 6U);
  for (const auto& line : lines) EXPECT_EQ(line["skipped"].get<bool>(), line["step"] == 2 || line["step"] == 4);
  EXPECT_TRUE(lines[1]["grad_norm"].is_null());
  EXPECT_EQ(lines[5]["num_skipped"], 2);
  EXPECT_TRUE(std::isfinite(lines[5]["loss"].get<double>()));
}

// A skipped update changes neither weights nor moments: skipping the first leaves the second as the first.
TEST_F(TrainerTest, ASkippedStepLeavesTheStateAlone) {
  std::vector<float> before;
  Parameters* weights = nullptr;
  const ModelFactory factory = [&](const ModelConfig& config, Space space, std::int32_t, DType) {
    Hooks hooks;
    hooks.before_backward = [&](int call) {
      const TensorView flat = weights->flat();
      if (call == 1) before.assign(flat.host<float>(), flat.host<float>() + flat.numel());
      if (call != 2) return;
      EXPECT_TRUE(std::equal(before.begin(), before.end(), flat.host<float>()));
    };
    hooks.after_backward = [](int call, Parameters& gradients) {
      if (call == 1) gradients.flat().host<float>()[0] = std::numeric_limits<float>::infinity();
    };
    auto model = std::make_unique<HookedModel>(config, space, hooks);
    weights = &model->parameters();
    return model;
  };
  train(data_.config({"train.steps=2", "train.warmup_steps=0"}), run(), factory);
  EXPECT_EQ(before.size(), static_cast<std::size_t>(flat_size(parameters(data_.config().model))));
}

// What the guard has seen is part of the state: a run that was stopped finds the same spikes.
TEST_F(TrainerTest, SkipsSpikesOfTheGradient) {
  const auto config = data_.config({"train.steps=30", "train.spike_factor=20"});
  const auto spike_at = [](int backward, int stop_at) {
    return hooked({.before_backward =
                       [stop_at](int call) {
                         if (call == stop_at) raise(SIGTERM);
                       },
                   .after_backward =
                       [backward](int call, Parameters& gradients) {
                         const TensorView flat = gradients.flat();
                         for (std::int64_t i = 0; call == backward && i < flat.numel(); ++i)
                           flat.host<float>()[i] *= 1e4F;
                       }});
  };
  train(config, data_ / "straight", spike_at(25, 0));
  const auto lines = metrics_of(data_ / "straight");
  ASSERT_EQ(lines.size(), 30U);
  for (const auto& line : lines) EXPECT_EQ(line["skipped"].get<bool>(), line["step"] == 25) << line["step"];
  EXPECT_EQ(lines.back()["num_skipped"], 1);
  EXPECT_ERROR(train(config, run(), spike_at(0, 23)), Preempted, "after step 23 of 30");
  train(config, run(), spike_at(2, 0));
  expect_same_run(run(), data_ / "straight");
}

TEST_F(TrainerTest, StopsAfterTooManyBadSteps) {
  const auto poison = hooked({.after_backward = [](int call, Parameters& gradients) {
    if (call >= 3) gradients.flat().host<float>()[0] = std::numeric_limits<float>::infinity();
  }});
  EXPECT_ERROR(train(data_.config({"train.steps=20", "train.max_bad_steps=3"}), run(), poison), Error,
               "training stopped at step 5 (3 steps in a row had a loss or gradient that is not finite");
  EXPECT_EQ(metrics_of(run()).size(), 5U);
}

TEST_F(TrainerTest, AFullDiskDoesNotStopTheRun) {
  const auto expected = straight();
  for (const char* point : {"checkpoint.data", "checkpoint.manifest", "weights.data"}) {
    const auto folder = data_ / (std::string("full-") + point);
    {
      const Environment fault("PHOTON_FAULT", std::string("enospc@") + point + ":2");  // the save of step 4
      train(data_.config(), folder);
    }
    expect_same_run(folder, expected);
    EXPECT_EQ(testing::names_in(folder / "checkpoints"), (std::vector<std::string>{"step-2", "step-6"})) << point;
  }
}

TEST_F(TrainerTest, ALastSaveThatFailsIsAnError) {
  {
    const Environment fault("PHOTON_FAULT", "enospc@checkpoint.data:3");
    EXPECT_ERROR(train(data_.config(), run()), Error, "step 6, the last one, could not be saved");
  }
  train(data_.config(), run());  // from step 4
  expect_same_run(run(), straight());
}

TEST_F(TrainerTest, RefusesWhatItCannotDo) {
  EXPECT_ERROR(train(data_.config({"train.precision=bf16"}), run()), InputError, "train.precision bf16 needs a GPU");
  EXPECT_ERROR(train(data_.config({"train.precision=fp8"}), run()), InputError, "train.precision fp8 needs a GPU");
  EXPECT_ERROR(train(data_.config({"parallel.stages=2"}), run()), InputError,
               "the job has 1 rank (a replica of parallel.stages 2 and parallel.shards 1 is 2 ranks)");
  EXPECT_ERROR(train(data_.config({"parallel.microbatch_size=4"}), run()), InputError, "does not divide");
  EXPECT_ERROR(train(data_.config({"model.vocab_size=100"}), run()), InputError, "100");
  EXPECT_ERROR(train(data_.config({"model.tokenizer=other.model"}), run()), InputError,
               "model.tokenizer is other.model");
}

TEST_F(TrainerTest, TrainsVanillaAndBlockModels) {
  RunConfig config = data_.config({"train.steps=3"});
  config.model = ModelConfig();
  config.model.type = ModelType::vanilla;
  config.model.vocab_size = 259;
  config.model.dim = 8;
  config.model.stack.layers = 1;
  config.model.stack.heads = 2;
  config.model.stack.ffn = 16;
  validate(config.model);
  train(config, data_ / "vanilla");
  EXPECT_EQ(metrics_of(data_ / "vanilla").size(), 3U);
  EXPECT_EQ(metrics_of(data_ / "vanilla")[2]["rec"], 0.0);

  config.model = data_.config().model;
  config.model.levels.pop_back();
  train(config, data_ / "block");
  EXPECT_EQ(metrics_of(data_ / "block")[2]["rec"], 0.0);
  EXPECT_TRUE(std::isfinite(metrics_of(data_ / "block")[2]["val_loss"].get<double>()));
}

}  // namespace
}  // namespace photon
