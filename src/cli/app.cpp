#include "cli/app.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "cli/exit_file.hpp"
#include "config/nearest.hpp"
#include "config/run_config.hpp"
#include "support/error.hpp"
#include "support/version.hpp"

namespace photon::cli {
namespace {

struct Command {
  const char* group;
  const char* name;
  const char* summary;
  const char* example;  // the end of the command's help, where it has none of its own
  void (*add)(CLI::App& app);
};

constexpr std::array commands{
    Command{"Data and models", "prepare", "turn text into data files",
            "photon prepare --tokenizer byte --output data --val-fraction 0.05 book.txt", add_prepare},
    Command{"Data and models", "init", "make a model with fresh weights",
            "photon init --config configs/model/bytes-small.yaml --seed 1 --output model", add_init},
    Command{"Data and models", "train", "train a model, or continue a run",
            "photon train --config configs/train/bytes-small.yaml --run runs/first --set train.steps=1000", add_train},
    Command{"Using a model", "generate", "continue prompts, many at once",
            "photon generate --model runs/first --prompts prompts.jsonl --output texts.jsonl --max-new-tokens 200",
            add_generate},
    Command{"Using a model", "merge", "join what the ranks of a generate job finished",
            "photon merge --output texts.jsonl --ordered", add_merge},
    Command{"Using a model", "eval", "measure loss, perplexity and bits per byte on a data file",
            "photon eval --model runs/first --data data/val.h5", add_eval},
    Command{"Using a model", "score", "give the likelihood of continuations",
            "photon score --model runs/first --input rows.jsonl --output scores.jsonl", add_score},
    Command{"Using a model", "drift", "tell whether RecGen can be trusted, by distance from the prompt",
            "photon drift --model runs/first --data data/val.h5 --plot drift.svg", add_drift},
    Command{"Weights and checkpoints", "inspect", "describe a model, checkpoint or run", "photon inspect runs/first",
            add_inspect},
    Command{"Weights and checkpoints", "verify", "check that a checkpoint is whole", "photon verify runs/first",
            add_verify},
    Command{"Weights and checkpoints", "export", "write a weights folder",
            "photon export --model runs/first --output model --dtype bf16", add_export},
    Command{"Weights and checkpoints", "import", "read a weights folder of another program",
            "photon import --input llama --output model", add_import},
    Command{"Measuring", "plan", "predict what a layout does on a cluster",
            "photon plan --config configs/train/quickstart.yaml --cluster configs/cluster/four-h100.yaml", add_plan},
    Command{"Measuring", "report", "show a run, or several, as one HTML page", "photon report runs/first", add_report},
    Command{"Measuring", "bench", "measure the speed of this machine", "photon bench train --preset photon-60m",
            add_bench},
};

std::string program_help() {
  std::string text =
      "photon trains hierarchical language models (PHOTON) and decodes them in large batches.\n\n"
      "Usage: photon COMMAND [OPTIONS]\n";
  const char* group = "";
  for (const Command& command : commands) {
    if (std::strcmp(group, command.group) != 0) text += fmt::format("\n{}:\n", command.group);
    group = command.group;
    text += fmt::format("  {:<10}{}\n", command.name, command.summary);
  }
  text +=
      "\nHelp:\n"
      "  photon help COMMAND   the options of a command, with an example (also: photon COMMAND --help)\n"
      "  photon help config    every key of a configuration file\n"
      "  photon --version\n\n"
      "Results go to stdout, messages to stderr. Exit codes: 0 done, 1 failed, 2 bad usage or input, 75 preempted "
      "after saving.\n";
  return text;
}

bool is_command(const std::string& word) {
  const auto named = [&](const Command& command) { return word == command.name; };
  return word == "help" || std::any_of(commands.begin(), commands.end(), named);
}

InputError unknown_command(const std::string& word, const char* why) {
  std::vector<std::string> names{"help"};
  for (const Command& command : commands) names.emplace_back(command.name);
  return InputError(fmt::format("unknown command {}", word), why,
                    fmt::format("did you mean {}?", nearest(word, names)));
}

std::string command_help(CLI::App& app, const std::vector<std::string>& words) {
  if (words.empty() || words[0] == "help") return program_help();
  if (words[0] == "config") return configuration_reference();
  if (!is_command(words[0])) throw unknown_command(words[0], "no help about it");
  CLI::App* command = app.get_subcommand(words[0]);
  if (words.size() == 1) return command->help("photon");
  std::vector<std::string> parts;
  for (const CLI::App* part : command->get_subcommands({})) parts.push_back(part->get_name());
  if (std::find(parts.begin(), parts.end(), words[1]) != parts.end()) {
    return command->get_subcommand(words[1])->help("photon " + words[0]);
  }
  throw InputError(fmt::format("no help about {} {}", words[0], words[1]), fmt::format("{} has no such part", words[0]),
                   parts.empty() ? fmt::format("see photon help {}", words[0])
                                 : fmt::format("did you mean {} {}?", words[0], nearest(words[1], parts)));
}

// Help says what values mean and stand for; what their checks are called in CLI11 only repeats it ("N:INT in [0 - 9]").
void hide_checks(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    try {
      for (int i = 0;; ++i) option->get_validator(i)->description("");
    } catch (const CLI::OptionNotFound&) {  // behind the last one
    }
  }
  for (CLI::App* part : app.get_subcommands({})) hide_checks(*part);
}

void add_commands(CLI::App& app) {
  app.get_formatter()->column_width(34);
  for (const Command& command : commands) {
    command.add(app);
    CLI::App* added = app.get_subcommand(command.name);
    if (added->get_footer().empty()) added->footer(fmt::format("Example:\n  {}", command.example));
  }
  CLI::App* help = app.add_subcommand("help", "Prints the help of a command");
  auto topic = std::make_shared<std::vector<std::string>>();
  help->add_option("command", *topic, "a command's name (and that of its part), or config")->expected(1, 2);
  help->callback([&app, topic] { std::cout << command_help(app, *topic); });
  app.require_subcommand(1);
  hide_checks(app);
}

// The command that the arguments have named so far, at any depth.
const CLI::App& deepest(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  return chosen.empty() ? app : deepest(*chosen[0]);
}

// What CLI11 could not place: an option the command does not have, or one argument too many.
void reject_leftovers(const CLI::App& app, const CLI::App& command) {
  const std::string name = &command == &app ? "photon" : command.get_name();
  const std::vector<std::string> leftovers = app.remaining(true);
  for (const std::string& word : leftovers) {
    if (word.size() < 2 || word[0] != '-' || word == "--") continue;
    std::vector<std::string> known;
    for (const CLI::Option* option : command.get_options()) {
      for (const std::string& option_name : option->get_lnames()) known.push_back(fmt::format("--{}", option_name));
      for (const std::string& option_name : option->get_snames()) known.push_back(fmt::format("-{}", option_name));
    }
    const std::string option = word.substr(0, word.find('='));
    throw InputError(fmt::format("unknown option {}", option), fmt::format("no such option of {}", name),
                     fmt::format("did you mean {}?", nearest(option, known)));
  }
  std::vector<std::string> parts;
  for (const CLI::App* part : command.get_subcommands({})) parts.push_back(part->get_name());
  for (const std::string& word : leftovers) {
    if (word == "--") continue;
    if (!parts.empty() && &command != &app) {
      throw InputError(fmt::format("unknown command {} {}", name, word), fmt::format("{} has no such part", name),
                       fmt::format("did you mean {} {}?", name, nearest(word, parts)));
    }
    throw InputError(fmt::format("unexpected argument {}", word), fmt::format("{} takes no more arguments", name),
                     fmt::format("see photon help {}", name == "photon" ? "" : name));
  }
}

void dispatch(int argc, const char* const* argv) {
  CLI::App app("photon", "photon");
  app.set_version_flag("--version", fmt::format("photon {}", version));
  add_commands(app);
  if (argc < 2) {
    throw InputError("no command given", "photon carries out one command", "see photon --help");
  }
  const std::string first = argv[1];
  if (first.empty() || (first[0] != '-' && !is_command(first))) {
    throw unknown_command(first, "photon has no such command");
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForVersion& e) {
    std::cout << e.what() << "\n";
  } catch (const CLI::Success&) {  // a call for help
    const CLI::App& command = deepest(app);
    std::cout << (&command == &app ? program_help() : app.get_subcommands()[0]->help("photon"));
  } catch (const CLI::ParseError& e) {
    const CLI::App& command = deepest(app);
    reject_leftovers(app, command);
    const std::string name = &command == &app ? "" : app.get_subcommands()[0]->get_name();
    throw InputError(e.what(), name.empty() ? "" : fmt::format("photon {}", name),
                     fmt::format("see photon help {}", name));
  }
}

// A write to a reader that has gone must be an error of that write, not the end of the process; and a file must never
// be opened under the number of a standard stream that was closed, or messages would land in it.
void guard_standard_streams() {
  std::signal(SIGPIPE, SIG_IGN);
  for (const int fd : {0, 1, 2}) {
    if (fcntl(fd, F_GETFD) != -1 || errno != EBADF) continue;
    // Open in the wrong direction: using it stays an error.
    const int opened = open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
    if (opened != -1 && opened != fd) close(opened);
  }
}

void report(std::string_view kind, std::string_view message) {
  fmt::print(stderr, "photon: {}{}\n", kind, message);
}

bool reader_has_gone() {
  pollfd out{1, POLLOUT, 0};
  return poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0;
}

// Results that did not reach stdout are a failure, said aloud unless the reader chose to stop reading.
int flush_results(int code) {
  const bool flushed = !std::cout.flush().fail();
  const bool written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  if (flushed && written) return code;
  if (!reader_has_gone()) {
    report("error: ", error_message("cannot write the results to stdout", "the disk may be full, or stdout is closed",
                                    "direct them elsewhere"));
  }
  return code == 0 ? static_cast<int>(ExitCode::failed) : code;
}

}  // namespace

int run(int argc, const char* const* argv) {
  guard_standard_streams();
  ExitCode code = ExitCode::done;
  try {
    dispatch(argc, argv);
  } catch (const Preempted& e) {
    report("", e.what());
    code = ExitCode::preempted;
  } catch (const InputError& e) {
    report("error: ", e.what());
    code = ExitCode::bad_input;
  } catch (const std::bad_alloc&) {
    report("error: ", error_message("out of memory", "an allocation failed", "use a smaller batch or model"));
    code = ExitCode::failed;
  } catch (const std::exception& e) {
    report("error: ", e.what());
    code = ExitCode::failed;
  }
  const int result = flush_results(static_cast<int>(code));
  tell_exit_code(result);
  return result;
}

}  // namespace photon::cli
