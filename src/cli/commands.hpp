// The commands of the photon program: one function and one file each. Every function adds a subcommand with its
// options, help text and callback; the callback does the work and throws on failure (cli/app.hpp maps exceptions to
// exit codes).
#pragma once

namespace CLI {
class App;
}

namespace photon::cli {

void add_prepare(CLI::App& app);
void add_init(CLI::App& app);
void add_train(CLI::App& app);
void add_generate(CLI::App& app);
void add_merge(CLI::App& app);
void add_eval(CLI::App& app);
void add_score(CLI::App& app);
void add_drift(CLI::App& app);
void add_inspect(CLI::App& app);
void add_verify(CLI::App& app);
void add_export(CLI::App& app);
void add_import(CLI::App& app);
void add_plan(CLI::App& app);
void add_report(CLI::App& app);
void add_bench(CLI::App& app);

}  // namespace photon::cli
