#include "data/prepare.hpp"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "data/ordered_pipeline.hpp"
#include "data/progress.hpp"
#include "data/split.hpp"
#include "data/text_source.hpp"
#include "data/vocabulary_text.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/log.hpp"
#include "tokenizer/segments.hpp"
#include "tokenizer/tokenizer.hpp"

namespace photon {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t max_logged_bad_lines = 20;

int available_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void check_options(const PrepareOptions& o) {
  if (o.files.empty())
    throw InputError("there is nothing to prepare", "no input file is named", "name text or JSONL files");
  if (o.output.empty()) throw InputError("--output is missing", "", "name the folder for the data files");
  if (o.tokenizer.empty() == (o.train_vocab == 0)) {
    throw InputError("which tokenizer is not clear", "exactly one of --tokenizer and --train-vocab has to be given",
                     "use --tokenizer byte, --tokenizer FILE.model or --train-vocab SIZE");
  }
  if (!(o.val_fraction >= 0 && o.val_fraction < 1)) {
    throw InputError(fmt::format("--val-fraction {} is out of range", o.val_fraction), "it is a share of the documents",
                     "give a number from 0 up to, but not including, 1");
  }
  if (o.max_bad < 0)
    throw InputError(fmt::format("--max-bad {} is negative", o.max_bad), "it is a number of lines", "");
  if (o.threads < 0 || o.threads > 4096) {
    throw InputError(fmt::format("--threads {} is out of range", o.threads), "",
                     "give a number from 1 to 4096, or 0 for all");
  }
}

// The places of one output folder.
struct Outputs {
  explicit Outputs(const fs::path& folder)
      : train(folder / "train.h5"),
        val(folder / "val.h5"),
        tokenizer(folder / tokenizer_file_name),
        train_tmp(folder / "train.h5.tmp"),
        val_tmp(folder / "val.h5.tmp"),
        raw(folder / "tokens.raw.tmp") {}
  fs::path train, val, tokenizer, train_tmp, val_tmp, raw;

  void remove_temporaries() const {
    std::error_code ignored;
    for (const fs::path& path : {train_tmp, val_tmp, raw}) fs::remove(path, ignored);
  }
};

// `model`: the tokenizer's file, if it is known already and not "byte".
Outputs open_outputs(const PrepareOptions& o, const std::optional<std::string>& model) {
  std::error_code error;
  fs::create_directories(o.output, error);
  if (error || !fs::is_directory(o.output)) {
    throw InputError(fmt::format("cannot write to {}", o.output.string()),
                     error ? error.message() : "it is not a folder", "name another --output");
  }
  Outputs outputs(o.output);
  for (const fs::path& path : {outputs.train, outputs.val}) {
    if (fs::exists(path) && !o.force) {
      throw InputError(fmt::format("{} is already there", path.string()), "prepare does not replace data by itself",
                       "use --force to replace it, or name another --output");
    }
  }
  const bool same_model = model && fs::exists(outputs.tokenizer) && read_text_file(outputs.tokenizer) == *model;
  if (fs::exists(outputs.tokenizer) && (model || o.train_vocab > 0) && !same_model && !o.force) {
    throw InputError(fmt::format("{} is already there", outputs.tokenizer.string()), "it is another tokenizer",
                     "use --force to replace it, or name another --output");
  }
  for (const fs::path& input : o.files) {
    for (const fs::path& path : {outputs.train, outputs.val}) {
      if (fs::exists(path) && fs::exists(input) && fs::equivalent(path, input, error)) {
        throw InputError(fmt::format("{} is both input and output", input.string()), "", "name another --output");
      }
    }
  }
  outputs.remove_temporaries();  // what a killed run left
  return outputs;
}

// A piece of a document after tokenising.
struct EncodedPiece {
  std::uint64_t tokens = 0;
  std::uint64_t bytes = 0;
  std::uint64_t hash = 0;  // of the first piece's first bytes
  bool starts = true;
  bool ends = true;
};

struct EncodedBatch {
  fs::path file;
  std::string tokens;  // packed
  std::vector<EncodedPiece> pieces;
  std::vector<BadLine> bad_lines;
  LineEnds line_ends;  // of the batch's only document with text; counted from the piece's start
};

class Encoder {
 public:
  // While `wants_line_ends`, batches remember where lines end.
  Encoder(const Tokenizer& tokenizer, const std::atomic<bool>& wants_line_ends)
      : tokenizer_(tokenizer),
        wide_(token_dtype(tokenizer.vocab_size()) == DType::u32),
        wants_line_ends_(wants_line_ends) {}

  EncodedBatch encode(const TextBatch& batch) const {
    EncodedBatch out;
    out.file = batch.file();
    std::vector<std::int32_t> ids;
    batch.for_each([&](const TextPiece& piece) { encode_piece(piece, ids, out); },
                   [&](const BadLine& line) { out.bad_lines.push_back(line); });
    return out;
  }

 private:
  void encode_piece(const TextPiece& piece, std::vector<std::int32_t>& ids, EncodedBatch& out) const {
    ids.clear();
    EncodedPiece encoded{0, piece.text.size(), 0, piece.starts_document, piece.ends_document};
    if (piece.starts_document) {
      const std::string_view start = piece.text.substr(0, first_piece_bytes);
      encoded.hash = checksum(start.data(), start.size());
    }
    if (wants_line_ends_) {
      for (std::size_t begin = 0; begin < piece.text.size();) {
        const std::string_view segment = piece.text.substr(begin, first_segment(piece.text.substr(begin)));
        tokenizer_.append(segment, piece.starts_document && begin == 0, ids);
        begin += segment.size();
        if (segment.ends_with('\n')) out.line_ends.add({ids.size(), begin});
      }
    } else {
      tokenizer_.append(piece.text, piece.starts_document, ids);
    }
    const bool empty_document = piece.starts_document && piece.ends_document && piece.text.empty();
    if (piece.ends_document && !empty_document) ids.push_back(tokenizer_.eos());
    encoded.tokens = ids.size();
    out.pieces.push_back(encoded);
    pack(ids, out.tokens);
  }

  void pack(const std::vector<std::int32_t>& ids, std::string& out) const {
    const std::size_t width = wide_ ? 4 : 2;
    std::size_t at = out.size();
    out.resize(at + ids.size() * width);
    for (const std::int32_t id : ids) {
      std::memcpy(out.data() + at, &id, width);  // little endian: the low bytes come first
      at += width;
    }
  }

  const Tokenizer& tokenizer_;
  bool wide_;
  const std::atomic<bool>& wants_line_ends_;
};

// A folder that did not exist before; it goes again where nothing was put into it.
class NewFolder {
 public:
  explicit NewFolder(const fs::path& path) : path_(fs::exists(path) ? fs::path() : path) {}
  ~NewFolder() {
    std::error_code not_empty;
    if (!path_.empty()) fs::remove(path_, not_empty);
  }
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

 private:
  fs::path path_;
};

// Takes the batches in order: tokens go to the raw file, what is known of the documents stays in memory.
class Collector {
 public:
  Collector(const PrepareOptions& options, const fs::path& raw_file, Progress& progress,
            std::atomic<bool>& wants_line_ends)
      : options_(options),
        raw_path_(raw_file),
        raw_(raw_file, std::ios::binary),
        progress_(progress),
        wants_line_ends_(wants_line_ends) {
    check_written();
  }

  void take(const EncodedBatch& batch) {
    for (const BadLine& line : batch.bad_lines) take_bad_line(batch.file, line);
    raw_.write(batch.tokens.data(), static_cast<std::streamsize>(batch.tokens.size()));
    check_written();
    for (const EncodedPiece& piece : batch.pieces) take_piece(piece, batch.line_ends);
  }

  void finish() {
    raw_.close();
    check_written();
    if (bad_lines_ > max_logged_bad_lines) {
      log_warning("{} more lines were skipped", bad_lines_ - max_logged_bad_lines);
    }
    if (documents_.empty()) {
      throw InputError("there is no text in the input",
                       fmt::format("{} empty documents, {} bad lines", empty_documents_, bad_lines_),
                       "check the files");
    }
  }

  std::vector<RawDocument>& documents() { return documents_; }
  const LineEnds& line_ends() const { return line_ends_; }
  std::uint64_t empty_documents() const { return empty_documents_; }
  std::uint64_t bad_lines() const { return bad_lines_; }

 private:
  void take_bad_line(const fs::path& file, const BadLine& line) {
    ++bad_lines_;
    if (bad_lines_ > static_cast<std::uint64_t>(options_.max_bad)) {
      throw InputError(fmt::format("{}:{} holds no document", file.string(), line.line), line.why,
                       options_.max_bad == 0
                           ? "correct the line, or skip such lines with --max-bad N"
                           : fmt::format("{} such lines were skipped already: correct them, or raise --max-bad {}",
                                         options_.max_bad, options_.max_bad));
    }
    if (bad_lines_ <= max_logged_bad_lines) {
      progress_.clear();
      log_warning("{}:{} is skipped: {}", file.string(), line.line, line.why);
    }
  }

  void take_piece(const EncodedPiece& piece, const LineEnds& line_ends) {
    if (piece.starts) {
      current_ = {num_tokens_, 0, 0, piece.hash, false, false};
      if (wants_line_ends_ && documents_.empty()) line_ends_.clear();
    }
    if (wants_line_ends_ && documents_.empty() && piece.bytes > 0) {
      for (const LineEnd& end : line_ends.ends())
        line_ends_.add({current_.tokens + end.tokens, current_.bytes + end.bytes});
    }
    num_tokens_ += piece.tokens;
    current_.tokens += piece.tokens;
    current_.bytes += piece.bytes;
    if (!piece.ends) return;
    if (current_.bytes == 0) {
      ++empty_documents_;
      return;
    }
    documents_.push_back(current_);
    if (documents_.size() > 1) wants_line_ends_ = false;
  }

  void check_written() {
    if (raw_) return;
    throw Error(fmt::format("cannot write {}", raw_path_.string()), std::strerror(errno),
                fmt::format("make room: {} are free there", bytes_text(static_cast<double>(free_bytes(raw_path_)))));
  }

  const PrepareOptions& options_;
  fs::path raw_path_;
  std::ofstream raw_;
  Progress& progress_;
  std::atomic<bool>& wants_line_ends_;
  RawDocument current_;
  std::vector<RawDocument> documents_;
  LineEnds line_ends_;
  std::uint64_t num_tokens_ = 0;
  std::uint64_t empty_documents_ = 0;
  std::uint64_t bad_lines_ = 0;
};

std::string sources_json(const std::vector<SourceDigest>& digests) {
  auto list = nlohmann::ordered_json::array();
  for (const SourceDigest& digest : digests) {
    list.push_back({{"file", digest.file.string()}, {"bytes", digest.bytes}, {"xxh3", checksum_text(digest.xxh3)}});
  }
  return list.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// train.h5 goes first and comes last: at no instant does it stand beside another preparation's files.
void publish(const Outputs& outputs, bool has_val, const std::optional<std::string>& tokenizer_model) {
  if (fs::exists(outputs.train)) remove_published(outputs.train);
  if (fs::exists(outputs.val)) remove_published(outputs.val);
  if (tokenizer_model) publish_file(outputs.tokenizer, *tokenizer_model, "prepare.tokenizer");
  if (has_val) publish_path(outputs.val_tmp, outputs.val, "prepare.val");
  publish_path(outputs.train_tmp, outputs.train, "prepare.train");
}

}  // namespace

PrepareSummary prepare(const PrepareOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  check_options(options);
  TextSource source(options.files, options.batch_bytes);
  std::optional<std::string> model;
  std::unique_ptr<Tokenizer> tokenizer;
  if (!options.tokenizer.empty()) {
    tokenizer = make_tokenizer(options.tokenizer);
    if (!tokenizer->file().empty()) model = read_text_file(tokenizer->file());
  }
  const NewFolder folder(options.output);
  const Outputs outputs = open_outputs(options, model);
  if (!tokenizer) {
    model = train_vocabulary_on(options.files, options.train_vocab);
    tokenizer = make_sentencepiece_tokenizer(*model, outputs.tokenizer);
  }

  PrepareSummary summary;
  summary.tokenizer = tokenizer->name();
  summary.vocab_size = tokenizer->vocab_size();
  try {
    std::atomic<bool> wants_line_ends = options.val_fraction > 0;
    Progress progress("tokenizing", source.total_bytes());
    Collector collector(options, outputs.raw, progress, wants_line_ends);
    const Encoder encoder(*tokenizer, wants_line_ends);
    run_in_order<TextBatch, EncodedBatch>(
        options.threads > 0 ? options.threads : available_cores(), [&](TextBatch& batch) { return source.next(batch); },
        [&](TextBatch&& batch) { return encoder.encode(batch); },
        [&](EncodedBatch&& batch) {
          collector.take(batch);
          progress.update(source.bytes_read());
        });
    progress.clear();
    collector.finish();
    summary.empty_documents = collector.empty_documents();
    summary.bad_lines = collector.bad_lines();
    fault_point("prepare.tokenized");

    auto& documents = collector.documents();
    mark_validation(documents, options.val_fraction, collector.line_ends());
    const TokenFileHeader header{tokenizer->name(), tokenizer->hash(), tokenizer->vocab_size(), tokenizer->eos(),
                                 sources_json(source.digests())};
    summary.train = write_token_file(outputs.train_tmp, header, outputs.raw, documents, false);
    const bool has_val = options.val_fraction > 0;
    if (has_val) summary.val = write_token_file(outputs.val_tmp, header, outputs.raw, documents, true);
    fault_point("prepare.written");
    publish(outputs, has_val, model);
    summary.train.file = outputs.train;
    if (has_val) summary.val.file = outputs.val;
    outputs.remove_temporaries();
  } catch (...) {
    outputs.remove_temporaries();
    throw;
  }
  summary.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return summary;
}

std::string to_json(const PrepareSummary& summary) {
  const auto split = [](const SplitSummary& s) -> nlohmann::ordered_json {
    if (s.file.empty()) return nullptr;
    return {{"file", s.file.string()}, {"documents", s.documents}, {"tokens", s.tokens}, {"bytes", s.bytes}};
  };
  const nlohmann::ordered_json json{{"train", split(summary.train)},
                                    {"val", split(summary.val)},
                                    {"tokenizer", summary.tokenizer},
                                    {"vocab_size", summary.vocab_size},
                                    {"empty_documents", summary.empty_documents},
                                    {"bad_lines", summary.bad_lines},
                                    {"seconds", summary.seconds}};
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace photon
