#include <fcntl.h>
#include <unistd.h>

#include <csignal>

#include "config/run_config.hpp"
#include "program.hpp"

namespace photon {
namespace {

class Program : public testing::ProgramTest {};
using testing::Outcome;

const std::vector<std::string> command_names = {"prepare", "init",   "train",  "generate", "merge", "eval", "score",
                                                "inspect", "verify", "export", "import",   "plan",  "bench"};

TEST_F(Program, HelpNamesEveryCommand) {
  const Outcome help = photon("--help");
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(help.err, "");
  for (const std::string& name : command_names)
    EXPECT_NE(help.out.find("\n  " + name + " "), std::string::npos) << name;
  EXPECT_EQ(photon("help").out, help.out);
  EXPECT_EQ(photon("-h").out, help.out);
}

TEST_F(Program, EveryCommandHasHelpWithAnExample) {
  for (const std::string& name : command_names) {
    const Outcome help = photon("help " + name);
    EXPECT_EQ(help.code, 0) << name;
    EXPECT_NE(help.out.find("Usage: photon " + name), std::string::npos) << help.out;
    EXPECT_NE(help.out.find("Example"), std::string::npos) << help.out;
    EXPECT_NE(help.out.find("  photon " + name), std::string::npos) << help.out;
    EXPECT_EQ(photon(name + " --help").out, help.out) << name;
  }
}

TEST_F(Program, PartsOfACommandHaveHelp) {
  for (const std::string part : {"train", "decode", "kernels", "comm", "cluster"}) {
    const Outcome help = photon("help bench " + part);
    EXPECT_EQ(help.code, 0) << part;
    EXPECT_NE(help.out.find("Usage: photon bench " + part), std::string::npos) << help.out;
    EXPECT_EQ(photon("bench " + part + " --help").out, help.out) << part;
  }
  EXPECT_EQ(photon("help bench trian").err,
            "photon: error: no help about bench trian (bench has no such part) did you mean bench train?\n");
  EXPECT_EQ(photon("help eval x").code, 2);
  EXPECT_EQ(photon("bench trian").err,
            "photon: error: unknown command bench trian (bench has no such part) did you mean bench train?\n");
}

// What the parser calls its checks is not for people: "N:INT in [1 - 1048576]=256".
TEST_F(Program, HelpHoldsNoNamesOfChecks) {
  for (const std::string& name : command_names) {
    const std::string help = photon("help " + name).out;
    for (const char* const check : {":INT", ":NONNEGATIVE", ":POSITIVE", ":{"})
      EXPECT_EQ(help.find(check), std::string::npos) << name << check;
  }
}

TEST_F(Program, HelpConfigPrintsTheConfigurationReference) {
  const Outcome help = photon("help config");
  EXPECT_EQ(help.code, 0);
  EXPECT_TRUE(help.out == configuration_reference());
}

TEST_F(Program, HasTheVersionOfTheBuild) {
  const Outcome version = photon("--version");
  EXPECT_EQ(version.code, 0);
  EXPECT_EQ(version.out.rfind("photon ", 0), 0u);
  const std::string number = version.out.substr(7, version.out.size() - 8);
  const std::string build = read(PHOTON_SOURCE_DIR "/CMakeLists.txt");
  EXPECT_NE(build.find("project(photon VERSION " + number + " "), std::string::npos) << number;
}

TEST_F(Program, BenchKernelsNamesTheNearestOp) {
  const Outcome outcome = photon("bench kernels --op swiglu_forwards");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find("no op is named 'swiglu_forwards' (did you mean swiglu_forward?) choose one of "),
            std::string::npos)
      << outcome.err;
}

TEST_F(Program, NamesTheNearestCommand) {
  const Outcome outcome = photon("trian --config x");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.err, "photon: error: unknown command trian (photon has no such command) did you mean train?\n");
  EXPECT_EQ(photon("help trian").code, 2);
  EXPECT_NE(photon("help trian").err.find("did you mean train?"), std::string::npos);
}

TEST_F(Program, NamesTheNearestOption) {
  // A missing required option beside it must not hide the misspelled one.
  for (const char* arguments : {"init --confg x.yaml --output y", "init --confg=x.yaml --output y"}) {
    const Outcome outcome = photon(arguments);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_EQ(outcome.err, "photon: error: unknown option --confg (no such option of init) did you mean --config?\n");
  }
}

TEST_F(Program, RefusesBadUsageWithExitCode2) {
  const auto refused = [this](const std::string& arguments, const std::string& part) {
    const Outcome outcome = photon(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_EQ(outcome.out, "") << arguments;
    EXPECT_EQ(outcome.err.rfind("photon: error: ", 0), 0u) << outcome.err;
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
  };
  refused("", "no command given");
  refused("''", "unknown command");
  refused("init", "required");
  refused("init --config x.yaml --output y z", "unexpected argument z");
  refused("init --config x.yaml --output y --seed one", "--seed");
  refused("init --config x.yaml --output y --seed -1", "--seed");
  refused("init --config x.yaml --output y --seed", "--seed");
  refused("--unknown", "unknown option --unknown");
  refused("init --config missing.yaml --output y", "cannot read missing.yaml");
}

TEST_F(Program, ResultsThatCannotBeWrittenAreAFailure) {
  const Outcome full = photon("help config", ">/dev/full");
  EXPECT_EQ(full.code, 1);
  EXPECT_NE(full.err.find("cannot write the results to stdout"), std::string::npos) << full.err;
  const Outcome closed = photon("help config", ">&-");
  EXPECT_EQ(closed.code, 1);
  EXPECT_NE(closed.err.find("cannot write the results to stdout"), std::string::npos) << closed.err;
}

TEST_F(Program, AReaderThatHasGoneIsAQuietFailure) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  ASSERT_EQ(dup2(ends[1], 9), 9);  // the shell's redirections take one digit
  const Outcome outcome = photon("help config", ">&9");
  close(9);
  close(ends[1]);
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "");
}

}  // namespace
}  // namespace photon
