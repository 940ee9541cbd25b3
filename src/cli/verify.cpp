// photon verify: is everything there, and as it was written?
#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.hpp"
#include "checkpoint/llama.hpp"
#include "cli/commands.hpp"
#include "data/dataset.hpp"
#include "storage/hdf5.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon::cli {
namespace fs = std::filesystem;
namespace {

struct Verdict {
  std::string kind;
  std::vector<std::string> problems;
  std::vector<std::string> checked;
};

std::vector<std::string> problems_of(const std::function<void()>& work) {
  try {
    work();
    return {};
  } catch (const Error& error) {
    return {error.what()};
  }
}

void add(Verdict& verdict, const fs::path& path, const std::vector<std::string>& problems) {
  verdict.checked.push_back(path.string());
  verdict.problems.insert(verdict.problems.end(), problems.begin(), problems.end());
}

Verdict verify_run(const fs::path& run) {
  Verdict verdict{"run", {}, {}};
  for (const fs::path& folder : list_checkpoints(run)) add(verdict, folder, verify_checkpoint(folder));
  if (fs::exists(run / "LATEST")) {
    std::string name = read_text_file(run / "LATEST");
    while (!name.empty() && name.back() == '\n') name.pop_back();
    const bool found = !name.empty() && fs::is_directory(run / "checkpoints" / name);
    add(verdict, run / "LATEST",
        found ? std::vector<std::string>{}
              : std::vector{fmt::format("LATEST names '{}', which is no checkpoint", name)});
  }
  if (folder_kind(run / "model") == FolderKind::weights) add(verdict, run / "model", verify_weights(run / "model"));
  return verdict;
}

Verdict verify_folder(const fs::path& path) {
  Verdict verdict;
  switch (folder_kind(path)) {
    case FolderKind::run:
      return verify_run(path);
    case FolderKind::checkpoint:
      verdict.kind = "checkpoint";
      add(verdict, path, verify_checkpoint(path));
      return verdict;
    case FolderKind::weights:
      if (problems_of([&] { static_cast<void>(is_hugging_face_folder(path)); }).empty() &&
          is_hugging_face_folder(path)) {
        verdict.kind = "hugging-face";
        add(verdict, path, problems_of([&] { import_llama(path); }));
      } else {
        verdict.kind = "weights";
        add(verdict, path, verify_weights(path));
      }
      return verdict;
    case FolderKind::other:
      break;
  }
  throw InputError(fmt::format("cannot verify {}", path.string()), "it is no weights folder, checkpoint or run folder",
                   "name one of these, or a data file");
}

Verdict verify(const fs::path& path) {
  if (fs::is_directory(path)) return verify_folder(path);
  if (!fs::exists(path))
    throw InputError(fmt::format("cannot verify {}", path.string()), "there is no such file", "check the path");
  if (path.extension() != ".h5") {
    throw InputError(fmt::format("cannot verify {}", path.string()), "it is no file that photon knows",
                     "name a data file (.h5), a weights folder, a checkpoint or a run folder");
  }
  Verdict verdict{"data", {}, {}};
  const auto problems = problems_of([&] {
    const Hdf5File file = Hdf5File::open(path);
    if (file.has_attribute("kind") && file.attribute_text("kind") == "photon-checkpoint") verdict.kind = "checkpoint";
  });
  if (verdict.kind == "checkpoint") {
    throw InputError(fmt::format("cannot verify {} alone", path.string()), "it is a part of a checkpoint",
                     "name the checkpoint's folder");
  }
  add(verdict, path, problems.empty() ? problems_of([&] { TokenFile::open(path).verify(); }) : problems);
  return verdict;
}

}  // namespace

void add_verify(CLI::App& app) {
  auto path = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(
      "verify",
      "Reads every byte of a checkpoint, run folder, weights folder or data file and compares it with the checksums "
      "it\n"
      "was written with. Prints the result as JSON. Exit code 0: whole; 1: damaged; 2: nothing that photon wrote.");
  command->footer("Examples:\n  photon verify runs/first\n  photon verify data/king-james/train.h5");
  command->add_option("path", *path, "what to check")->type_name("PATH")->required();
  command->callback([path] {
    const Verdict verdict = verify(*path);
    const nlohmann::ordered_json result = {{"path", *path},
                                           {"kind", verdict.kind},
                                           {"ok", verdict.problems.empty()},
                                           {"checked", verdict.checked},
                                           {"problems", verdict.problems}};
    std::cout << result.dump(2) << std::endl;
    if (!verdict.problems.empty()) {
      throw Error(fmt::format("{} is damaged", *path), verdict.problems.front(),
                  "restore it from a copy or make it again");
    }
  });
}

}  // namespace photon::cli
