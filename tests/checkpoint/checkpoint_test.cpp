#include "checkpoint/checkpoint.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "blueprint/modules.hpp"
#include "fixtures.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"
#include "testing/temporary.hpp"

namespace photon {
namespace {
namespace fs = std::filesystem;
using testing::run_with_fault;
using testing::TemporaryFolder;

// A run in miniature: parameters and both moments, whose values are a function of the step.
struct SmallRun {
  explicit SmallRun(const fs::path& folder) : path(folder) { fill(0); }

  void fill(std::int64_t step) {
    state.step = step;
    state.samples = step * 32;
    state.tokens = step * 4096 + (std::int64_t{1} << 40);
    state.skipped_steps = step % 3;
    state.extra_json = R"({"best":)" + std::to_string(step) + "}";
    const auto seed = static_cast<std::uint64_t>(step);
    testing::fill(parameters, seed);
    testing::fill(m, seed + 1000);
    testing::fill(v, seed + 2000);
  }
  std::vector<TensorPiece> pieces() const {
    std::vector<TensorPiece> all = pieces_of(parameter_group, parameters);
    for (const auto& [group, values] : {std::pair{first_moment_group, &m}, {second_moment_group, &v}}) {
      const std::vector<TensorPiece> more = pieces_of(group, *values);
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  }
  std::vector<TensorTarget> targets() const {
    std::vector<TensorTarget> all = targets_of(parameter_group, parameters);
    for (const auto& [group, values] : {std::pair{first_moment_group, &m}, {second_moment_group, &v}}) {
      const std::vector<TensorTarget> more = targets_of(group, *values);
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  }
  void save(std::int64_t step, std::int64_t keep = 3) {
    fill(step);
    SaveOptions options;
    options.keep = keep;
    save_checkpoint(path, config, state, pieces(), options);
  }
  // The step that loads, after checking that everything belongs to it; -1 for none.
  std::int64_t load() {
    const std::optional<TrainState> loaded = load_latest_checkpoint(path, config, targets());
    if (!loaded) return -1;
    SmallRun expected(path);
    expected.fill(loaded->step);
    EXPECT_EQ(loaded->samples, expected.state.samples);
    EXPECT_EQ(loaded->tokens, expected.state.tokens);
    EXPECT_EQ(loaded->skipped_steps, expected.state.skipped_steps);
    EXPECT_EQ(loaded->extra_json, expected.state.extra_json);
    EXPECT_TRUE(testing::same_bits(parameters, expected.parameters));
    EXPECT_TRUE(testing::same_bits(m, expected.m));
    EXPECT_TRUE(testing::same_bits(v, expected.v));
    return loaded->step;
  }
  fs::path step(std::int64_t n) const { return path / "checkpoints" / ("step-" + std::to_string(n)); }

  fs::path path;
  ModelConfig config = testing::small_photon();
  TrainState state;
  Parameters parameters{config, Space::host};
  Parameters m{config, Space::host};
  Parameters v{config, Space::host};
};

using Names = std::vector<std::string>;

TEST(Checkpoint, ComesBackBitForBit) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  EXPECT_EQ(run.load(), -1);
  run.save(7);
  run.fill(0);
  EXPECT_EQ(run.load(), 7);
  EXPECT_EQ(read_text_file(run.path / "LATEST"), "step-7\n");
  EXPECT_EQ(testing::names_in(run.step(7)), (Names{"manifest.json", "rank-00000.h5"}));
  EXPECT_TRUE(verify_checkpoint(run.step(7)).empty());
  run.save(7);  // over itself
  EXPECT_EQ(run.load(), 7);
}

TEST(Checkpoint, KeepsTheLastOnes) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  for (const std::int64_t step : {8, 9, 10, 11}) run.save(step, 2);
  EXPECT_EQ(testing::names_in(run.path / "checkpoints"), (Names{"step-10", "step-11"}));  // by number, not by name
  EXPECT_EQ(run.load(), 11);
}

TEST(Checkpoint, KilledAnywhereLoadsTheOldOrTheNew) {
  const std::vector<std::pair<std::string, std::int64_t>> points = {{"checkpoint.begin", 2},
                                                                    {"checkpoint.data", 2},
                                                                    {"checkpoint.part.write", 2},
                                                                    {"checkpoint.part.done", 2},
                                                                    {"checkpoint.manifest", 2},
                                                                    {"checkpoint.manifest_file.write", 2},
                                                                    {"checkpoint.manifest_file.done", 2},
                                                                    {"checkpoint.rename", 2},
                                                                    {"checkpoint.publish.done", 3},
                                                                    {"checkpoint.latest", 3},
                                                                    {"checkpoint.latest_file.rename", 3},
                                                                    {"checkpoint.trash", 3},
                                                                    {"trash", 3},
                                                                    {"checkpoint.done", 3}};
  for (const auto& [point, step] : points) {
    const TemporaryFolder folder;
    SmallRun run(folder / "run");
    run.save(1, 2);
    run.save(2, 2);
    run_with_fault(point, [&] { run.save(3, 2); });
    EXPECT_EQ(run.load(), step) << point;
    run.save(4, 2);  // what the crash left is cleared away
    EXPECT_EQ(run.load(), 4) << point;
    EXPECT_EQ(testing::names_in(run.path / "checkpoints"), (Names{"step-" + std::to_string(step), "step-4"})) << point;
    EXPECT_EQ(testing::names_in(run.path), (Names{"LATEST", "checkpoints"})) << point;
  }
}

TEST(Checkpoint, KilledInTheFirstSaveStartsFresh) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  run_with_fault("checkpoint.manifest", [&] { run.save(1); });
  EXPECT_EQ(run.load(), -1);
}

TEST(Checkpoint, KilledWhileReplacingTheSameStep) {
  for (const std::string point : {"checkpoint.rename", "checkpoint.publish.rename", "checkpoint.publish.done"}) {
    const TemporaryFolder folder;
    SmallRun run(folder / "run");
    run.save(3);
    run_with_fault(point, [&] { run.save(3); });
    EXPECT_EQ(run.load(), 3) << point;
  }
}

TEST(Checkpoint, AFullDiskIsAnErrorAndTrainingGoesOn) {
  for (const std::string point : {"checkpoint.begin", "checkpoint.data", "checkpoint.part.rename",
                                  "checkpoint.manifest", "checkpoint.manifest_file.rename", "checkpoint.rename"}) {
    const TemporaryFolder folder;
    SmallRun run(folder / "run");
    run.save(1);
    {
      const testing::Environment fault("PHOTON_FAULT", "enospc@" + point);
      EXPECT_ERROR(run.save(2), Error, "No space left on device");
    }
    EXPECT_EQ(testing::names_in(run.path / "checkpoints"), (Names{"step-1"})) << point;
    EXPECT_EQ(run.load(), 1);
    run.save(3);
    EXPECT_EQ(run.load(), 3);
  }
}

TEST(Checkpoint, AWriteThatFailsHalfWayLeavesTheOldOne) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  run.save(1);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{8'000, 8'000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(10);
    for (int attempt = 0; attempt < 2; ++attempt) {
      try {
        run.save(2);
        ::_exit(11);
      } catch (const Error& error) {
        if (std::string(error.what()).find("File too large") == std::string::npos) ::_exit(12);
      }
    }
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(testing::names_in(run.path / "checkpoints"), (Names{"step-1"}));
  EXPECT_EQ(run.load(), 1);
}

TEST(Checkpoint, FailingToRemoveAnOldOneIsNoFailure) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  run.save(1, 1);
  const testing::Environment fault("PHOTON_FAULT", "enospc@checkpoint.trash");
  EXPECT_NO_THROW(run.save(2, 1));
  EXPECT_EQ(run.load(), 2);
}

TEST(Checkpoint, DamageAnywhereIsFoundAndTheOlderOneUsed) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  run.save(1);
  run.save(2);
  const std::string good = testing::read_bytes(run.step(2) / "manifest.json");
  const auto size = static_cast<std::ptrdiff_t>(good.size());
  for (std::ptrdiff_t at = 0; at < size; at += 1 + size / 17) {
    testing::flip_byte(run.step(2) / "manifest.json", at);
    EXPECT_FALSE(verify_checkpoint(run.step(2)).empty()) << at;
    EXPECT_EQ(run.load(), 1) << at;
    testing::write_bytes(run.step(2) / "manifest.json", good);
  }
  const std::string tensors = testing::read_bytes(run.step(2) / "rank-00000.h5");
  const auto bytes = static_cast<std::ptrdiff_t>(tensors.size());
  int refused = 0;
  for (std::ptrdiff_t at = 0; at < bytes; at += 1 + bytes / 31) {
    testing::flip_byte(run.step(2) / "rank-00000.h5", at);
    EXPECT_FALSE(verify_checkpoint(run.step(2)).empty()) << at;
    // A byte that no tensor uses may load; load() checks that the values are right in either case.
    refused += run.load() == 1 ? 1 : 0;
    testing::write_bytes(run.step(2) / "rank-00000.h5", tensors);
  }
  EXPECT_GT(refused, 15);
  EXPECT_EQ(run.load(), 2);
  fs::resize_file(run.step(2) / "rank-00000.h5", tensors.size() - 1);
  EXPECT_EQ(run.load(), 1);
  fs::remove(run.step(2) / "rank-00000.h5");
  EXPECT_EQ(run.load(), 1);
  ASSERT_EQ(verify_checkpoint(run.step(2)).size(), 1U);
  EXPECT_NE(verify_checkpoint(run.step(2))[0].find("rank-00000.h5 is missing"), std::string::npos);
  fs::remove(run.step(1) / "manifest.json");
  EXPECT_ERROR(run.load(), Error, "every one incomplete or damaged");
}

TEST(Checkpoint, VerifyNamesTheDamagedTensor) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  run.save(1);
  // The bytes of one weight, looked up in the file.
  const TensorView weight = run.m.view("levels.1.encoder.layers.1.mlp.up_proj.weight");
  const std::string bytes(static_cast<const char*>(weight.data()), static_cast<std::size_t>(weight.bytes()));
  const auto at = testing::read_bytes(run.step(1) / "rank-00000.h5").find(bytes);
  ASSERT_NE(at, std::string::npos);
  testing::flip_byte(run.step(1) / "rank-00000.h5", static_cast<std::ptrdiff_t>(at));
  const std::vector<std::string> problems = verify_checkpoint(run.step(1));
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_NE(problems[0].find("adam_m/levels.1.encoder.layers.1.mlp.up_proj.weight"), std::string::npos) << problems[0];
}

TEST(Checkpoint, StrangersInTheFolderAreReported) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  run.save(1);
  testing::write_bytes(run.step(1) / "notes", "x");
  ASSERT_EQ(verify_checkpoint(run.step(1)).size(), 1U);
  EXPECT_NE(verify_checkpoint(run.step(1))[0].find("notes does not belong"), std::string::npos);
}

TEST(Checkpoint, LaterStepsThatWereRefusedAreSetAside) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  run.save(10, 1);
  run.save(20, 2);
  testing::flip_byte(run.step(20) / "manifest.json", 5);
  EXPECT_EQ(run.load(), 10);
  run.save(15, 1);
  EXPECT_EQ(testing::names_in(run.path / "checkpoints"), (Names{"step-15", "step-20.superseded"}));
  EXPECT_EQ(run.load(), 15);
}

TEST(Checkpoint, AnotherModelIsRefusedNotSkipped) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  run.save(1);
  run.config.levels[0].encoder.rope_theta = 999.0;  // the shapes stay
  EXPECT_ERROR(run.load(), InputError, "is of another model");
}

// Several ranks in turn in one process: the collective is true unless told otherwise.
TEST(Checkpoint, PiecesOfSeveralRanksLoadInAnyOtherCut) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  run.fill(5);
  const std::vector<TensorPiece> all = run.pieces();
  std::vector<std::vector<TensorPiece>> parts(3);
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (i % 2 == 0) {  // whole, on one rank
      parts[i / 2 % 3].push_back(all[i]);
      continue;
    }
    const std::int64_t n = all[i].data.numel();
    const ConstTensorView flat = all[i].data.reshape({n});
    for (std::int64_t r = 0; r < 3; ++r) {  // three uneven runs, two of them on rank 0
      const std::int64_t begin = r == 0 ? 0 : r == 1 ? n / 5 : n / 2;
      const std::int64_t end = r == 0 ? n / 5 : r == 1 ? n / 2 : n;
      parts[r == 1 ? 1 : 0].push_back({all[i].name, all[i].shape, begin, flat.slice(0, begin, end - begin)});
    }
  }
  // Stage by stage, as collectives would have it: rank 0 waits in its first call until the others have written.
  SaveOptions options;
  options.num_ranks = 3;
  int stage = 0;
  options.all_succeed = [&](bool mine) {
    if (++stage == 2) {
      for (int rank : {1, 2}) {
        SaveOptions other;
        other.num_ranks = 3;
        other.rank = rank;
        save_checkpoint(run.path, run.config, run.state, parts[static_cast<std::size_t>(rank)], other);
      }
    }
    return mine;
  };
  save_checkpoint(run.path, run.config, run.state, parts[0], options);
  EXPECT_EQ(stage, 3);
  EXPECT_TRUE(verify_checkpoint(run.step(5)).empty());
  EXPECT_EQ(testing::names_in(run.step(5)),
            (Names{"manifest.json", "rank-00000.h5", "rank-00001.h5", "rank-00002.h5"}));
  run.fill(0);
  EXPECT_EQ(run.load(), 5);
  // Two halves of every tensor, each read for itself.
  for (const TensorPiece& piece : all) {
    const std::int64_t n = piece.data.numel();
    for (const auto& [begin, end] : {std::pair<std::int64_t, std::int64_t>{0, n / 2}, {n / 2, n}}) {
      std::vector<float> half(static_cast<std::size_t>(end - begin), -1.0F);
      read_checkpoint_tensors(run.step(5), {{piece.name, piece.shape, begin, host_view(half.data(), {end - begin})}});
      EXPECT_EQ(std::memcmp(half.data(), piece.data.reshape({n}).host<float>() + begin, half.size() * sizeof(float)), 0)
          << piece.name;
    }
  }
}

TEST(Checkpoint, EveryRankFailsWhenOneDoes) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  run.save(1);
  run.fill(2);
  SaveOptions options;
  options.num_ranks = 2;
  int stage = 0;
  options.all_succeed = [&](bool) { return ++stage < 2; };  // the other rank failed to write
  EXPECT_ERROR(save_checkpoint(run.path, run.config, run.state, run.pieces(), options), Error, "another rank failed");
  EXPECT_EQ(stage, 2);
  EXPECT_EQ(testing::names_in(run.path / "checkpoints"), (Names{"step-1"}));
}

TEST(Checkpoint, TensorsMustBeStoredOnce) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  std::vector<TensorPiece> pieces = run.pieces();
  const std::int64_t n = pieces[0].data.numel();
  pieces[0].data = pieces[0].data.reshape({n}).slice(0, 0, n - 1);
  EXPECT_THROW(save_checkpoint(run.path, run.config, run.state, pieces), ContractError);
  EXPECT_TRUE(testing::names_in(run.path / "checkpoints").empty());
}

TEST(ResolveModel, TakesEveryKindOfFolder) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  EXPECT_ERROR(resolve_model(folder / "run"), InputError, "there is nothing of that name");
  EXPECT_ERROR(resolve_model(folder.path()), InputError, "is no model");
  run.save(1);
  run.save(2);
  SmallRun expected(folder / "run");
  const auto expect_step = [&](const LoadedModel& model, std::int64_t step) {
    EXPECT_EQ(model.step, step);
    expected.fill(step);
    EXPECT_TRUE(model.config == expected.config);
    EXPECT_TRUE(testing::same_bits(model.parameters, expected.parameters));
  };
  expect_step(resolve_model(run.path), 2);
  expect_step(resolve_model(run.step(1)), 1);
  testing::flip_byte(run.step(2) / "manifest.json", 9);
  expect_step(resolve_model(run.path), 1);
  EXPECT_ERROR(resolve_model(run.step(2)), DamagedCheckpoint, "step-2 cannot be used");
  testing::flip_byte(run.step(1) / "manifest.json", 9);
  EXPECT_ERROR(resolve_model(run.path), InputError, "has no weights");
  run.fill(9);
  save_weights_folder(run.path / "model", run.config, run.parameters);
  EXPECT_TRUE(testing::same_bits(resolve_model(run.path).parameters, run.parameters));
  EXPECT_TRUE(testing::same_bits(resolve_model(run.path / "model").parameters, run.parameters));
}

TEST(ResolveModel, ReadsTheTensorsThatAreWantedAlone) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  run.save(1);
  save_weights_folder(run.path / "model", run.config, run.parameters);
  for (const fs::path& path : {run.path, run.step(1), run.path / "model"}) {
    for (const LayerRange& layers : {coarse_layers(run.config), chunk_layers(run.config)}) {
      const LoadedModel part =
          resolve_model(path, [&](const ModelConfig& config) { return hosted_parameters(config, layers); });
      EXPECT_EQ(part.parameters.flat().numel(), flat_size(hosted_parameters(run.config, layers)));
      EXPECT_LT(part.parameters.flat().numel(), run.parameters.flat().numel());
      for (const ParameterSpec& spec : part.parameters.specs()) {
        EXPECT_EQ(std::memcmp(part.parameters.view(spec.name).data(), run.parameters.view(spec.name).data(),
                              static_cast<std::size_t>(spec.numel()) * sizeof(float)),
                  0)
            << spec.name;
      }
    }
  }
  const auto refuse = [](const ModelConfig&) -> std::vector<ParameterSpec> {
    throw InputError("not this one", "", "");
  };
  EXPECT_ERROR(resolve_model(run.path, refuse), InputError, "not this one");
}

TEST(ResolveModel, ACheckpointCarriesItsTokenizer) {
  const TemporaryFolder folder;
  SmallRun run(folder / "run");
  run.config.tokenizer = "tokenizer.model";
  testing::write_bytes(folder / "t", "pieces");
  SaveOptions options;
  options.tokenizer_file = folder / "t";
  save_checkpoint(run.path, run.config, run.state, run.pieces(), options);
  const LoadedModel model = resolve_model(run.path);
  EXPECT_EQ(testing::read_bytes(tokenizer_path(model.config, model.folder)), "pieces");
  EXPECT_TRUE(verify_checkpoint(run.step(0)).empty());
  testing::flip_byte(run.step(0) / "tokenizer.model", 0);
  EXPECT_EQ(verify_checkpoint(run.step(0)).size(), 1U);
}

}  // namespace
}  // namespace photon
