// photon prepare: text to data files.
#include "data/prepare.hpp"

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "cli/commands.hpp"

namespace photon::cli {
namespace {

constexpr const char* description =
    "Turns text into the data files that train and eval read: DIR/train.h5 and, with --val-fraction, DIR/val.h5.\n"
    "A plain file is one document, or several separated by lines that are exactly <|endoftext|>; a .jsonl file holds "
    "one\n"
    "{\"text\": ...} a line. Both may be compressed with gzip or zstd. Prints a summary as JSON.";

constexpr const char* examples =
    "Examples:\n"
    "  photon prepare --tokenizer byte --output data/king-james --val-fraction 0.05 king-james.txt\n"
    "  photon prepare --train-vocab 4096 --output data/corpus --val-fraction 0.01 corpus/*.jsonl.zst\n"
    "  photon prepare --tokenizer data/corpus/tokenizer.model --output data/more --max-bad 100 more.jsonl.gz";

}  // namespace

void add_prepare(CLI::App& app) {
  auto options = std::make_shared<PrepareOptions>();
  CLI::App* command = app.add_subcommand("prepare", description);
  command->footer(examples);
  auto* tokenizer =
      command->add_option("--tokenizer", options->tokenizer, "byte, or a SentencePiece .model file (copied into DIR)")
          ->type_name("byte|FILE");
  command
      ->add_option("--train-vocab", options->train_vocab,
                   "instead of --tokenizer: train a SentencePiece vocabulary of N ids on the files first")
      ->type_name("N")
      ->excludes(tokenizer);
  command->add_option("--output", options->output, "folder for the data files; made if missing")
      ->type_name("DIR")
      ->required();
  command
      ->add_option(
          "--val-fraction", options->val_fraction,
          "share of the documents held out as val.h5, chosen by their hash; a lone document gives its last part. "
          "0: no val.h5")
      ->type_name("F")
      ->capture_default_str();
  command->add_option("--max-bad", options->max_bad, "malformed JSONL lines to skip before giving up; each is reported")
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--threads", options->threads, "tokenizing threads; 0: one a core")
      ->type_name("N")
      ->capture_default_str();
  command->add_flag("--force", options->force, "replace data files that are already in DIR");
  command->add_option("files", options->files, "text or JSONL files, in the order in which they are stored")
      ->type_name("FILES")
      ->required();
  command->callback([options] { std::cout << to_json(prepare(*options)) << std::endl; });
}

}  // namespace photon::cli
