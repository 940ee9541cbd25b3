// Continuous batching: requests stream in, take slots of an incremental decoder, and leave at group boundaries.
//
// A row's text is a function of the model, its prompt, its options and its id: batch size, order, refills and
// look-ahead do not change it (in deterministic numerics).
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "decode/request.hpp"
#include "decode/sample.hpp"
#include "model/incremental.hpp"
#include "partition/decode_layout.hpp"

namespace photon {

class ChunkLink;
class PhotonShare;

enum class GenerationMode { hiergen, recgen };
// "hiergen" | "recgen". Errors: InputError.
GenerationMode generation_mode(const std::string& name);

// Where caches come from.
struct DecoderSource {
  std::int64_t group_tokens = 1;              // C_<=L
  std::int64_t chunk_tokens = 1;              // C_1
  std::int64_t max_chunks = host_max_chunks;  // RecGen: chunks that are decoded in one call
  std::int64_t prefill_tokens = 8192;
  // What a sequence of that length takes in all: caches, and on a device what a step needs for its row.
  std::function<std::int64_t(std::int64_t max_tokens)> slot_bytes;
  // How much of it RecGen needs for sequences alone whose prompts are not complete; none given: nothing.
  std::function<std::int64_t(std::int64_t max_tokens)> prompt_bytes;
  std::function<std::unique_ptr<IncrementalDecoder>(std::int64_t num_slots, std::int64_t max_tokens,
                                                    const DecoderOptions& options)>
      make;

  // Sequences of that length that fit into the memory. RecGen completes the prompts of `prompt_rows` at once.
  std::int64_t slots_in(std::int64_t memory_bytes, std::int64_t max_tokens, GenerationMode mode,
                        std::int64_t prompt_rows) const;
};
// The model must outlive it.
DecoderSource decoder_source(Model& model, const Context& ctx);
// Of a coarse rank, with its coarse_layers(), whose chunks others decode. Share and link must outlive it.
DecoderSource decoder_source(const PhotonShare& share, const Context& ctx, ChunkLink& link);

struct EngineOptions {
  GenerationMode mode = GenerationMode::hiergen;
  std::int64_t max_batch = 256;  // sequences decoded at once
  std::int64_t memory_bytes = std::int64_t{1}
                              << 30;  // for caches: fewer sequences run at once where they would need more
  std::int64_t reserve_tokens = 0;    // caches are made for at least so many tokens a sequence
  std::int64_t look_ahead = 0;        // RecGen: groups the coarse stream runs ahead; 0 = chosen from the batch
  std::int64_t max_chunks = 0;        // RecGen: chunks decoded in one call; 0 = the source's
  std::int64_t prefill_tokens = 0;  // prompt tokens encoded in one call (a longer prompt goes alone); 0 = the source's
  std::int64_t prompt_rows = recgen_prompt_rows;  // RecGen: prompts that are completed at once, 3 or more
  bool logprobs = false;
  std::int64_t top_logprobs = 0;  // of the likeliest tokens beside each token, 0 .. most_top_tokens; needs logprobs
  bool graphs = true;             // DecoderOptions
};

struct Result {
  std::string id;  // as JSON
  std::vector<Completion> samples;
  std::int64_t line = 0;                              // of the prompts file, from 0
  std::shared_ptr<const OpenAiRow> openai = nullptr;  // null: in photon's own form
};

class ResultSink {
 public:
  virtual ~ResultSink() = default;
  virtual void result(const Result& result) = 0;
  virtual void error(const RowError& error) = 0;
};

// Where rows come from.
class RowSource {
 public:
  virtual ~RowSource() = default;
  // The next row; or none, for good once ended() says so and for now until then.
  virtual std::optional<Row> next() = 0;
  virtual bool ended() const = 0;
};

struct EngineStatistics {
  std::int64_t rows = 0;           // finished with a result
  std::int64_t errors = 0;         // finished with an error
  std::int64_t prompt_tokens = 0;  // encoded, or forced through the decoders
  std::int64_t new_tokens = 0;     // of rows in flight too
  std::int64_t num_active = 0;     // samples in flight
  std::int64_t num_waiting = 0;    // rows read and not started
  std::int64_t num_slots = 0;
  std::int64_t cache_bytes = 0;
  double prefill_seconds = 0;  // of the device where there is one
  double decode_seconds = 0;   // of everything from a step's rows to its results, without what encoding prompts takes
};

// Adds one rank's to those of others.
void add(const EngineStatistics& statistics, EngineStatistics& sum);

class Engine {
 public:
  // `tokenizer` (null: no texts) must outlive this. eos < 0: only stop strings and lengths end a row.
  Engine(DecoderSource source, const Tokenizer* tokenizer, std::int32_t eos, const EngineOptions& options);
  ~Engine();

  // Decodes rows until the source has ended; false when `poll`, called before every macro-step and again and again
  // while there is nothing to decode, asked to stop by returning false (rows in flight are dropped). A row that needs
  // more than the memory becomes an error. May be called again: caches and recorded steps stay.
  bool run(RowSource& rows, ResultSink& sink, const std::function<bool(const EngineStatistics&)>& poll);
  // The same for a function that gives rows until it gives none.
  bool run(const std::function<std::optional<Row>()>& next, ResultSink& sink,
           const std::function<bool(const EngineStatistics&)>& poll);

  // For `poll`: takes up to `count` rows back that were read and not started, the last ones first. Their lines.
  std::vector<std::int64_t> give_back(std::int64_t count);
  // Rows it reads ahead of its slots.
  std::int64_t window_rows() const { return std::max<std::int64_t>(64, 2 * options_.max_batch); }

  const EngineStatistics& statistics() const { return statistics_; }

 private:
  struct Job;     // a request and its samples
  struct Active;  // a sample in a slot
  struct Step;    // rows of a macro-step whose results are not taken yet
  struct Chunk;   // a chunk of a row whose latent is known
  struct Call;    // chunks whose tokens are not taken yet

  std::int64_t tokens_needed(const Request& request) const;
  std::int64_t capacity_class(std::int64_t tokens) const;
  std::int64_t slots_for(std::int64_t max_tokens) const;
  std::int64_t waiting_samples() const;
  void drop_rows();
  void read_rows(RowSource& rows);
  void rebuild();
  bool worth_draining() const;
  void admit();
  std::int64_t take_slot();
  void expand_held();
  void start_sample(const std::shared_ptr<Job>& job, std::int64_t slot);
  // A prompt's first slot, and those of further samples of it.
  struct Prompt {
    std::int64_t slot = 0;
    const Request* request = nullptr;
    std::vector<std::int64_t> copies = {};
  };
  // Encodes prompts and copies them to their further slots. RecGen's are complete then, but for the held one.
  void prefill(std::vector<Prompt> prompts);
  void encode(std::span<const Prompt> prompts);
  // How many rows may hold prompts that are not complete.
  std::int64_t prompt_room() const;
  // RecGen: the group in which each row's prompt ends is completed by HierGen's rule; the coarse stream does the rest.
  void complete_prompts(std::span<const std::int64_t> slots);
  // Queues a group of these rows; takes the results of the oldest one queued.
  void queue_step(const std::vector<Active*>& rows);
  void take_step();
  void hiergen_round();
  void cohort_round();
  void recgen_round();
  // One cohort's rows: the coarse stream runs ahead, and their chunks are asked for.
  void run_ahead(std::int64_t cohort);
  // Asks for chunks, at most max_chunks in a call; takes the oldest call's tokens.
  void start_chunks(std::span<const Chunk> chunks, const ConstTensorView& latents, std::int64_t cohort);
  void take_chunks();
  bool has_calls(std::int64_t cohort) const;
  // The next cohort in turn that has rows and nothing under way; -1: none.
  std::int64_t idle_cohort();
  // Until nothing is under way.
  void take_all();
  void retire();
  void finish(const Job& job);
  void update_statistics();

  DecoderSource source_;
  const Tokenizer* tokenizer_;
  std::int32_t eos_;
  EngineOptions options_;
  ResultSink* sink_ = nullptr;
  EngineStatistics statistics_;
  std::int64_t finished_tokens_ = 0;
  double stepping_seconds_ = 0;  // host time around steps
  double host_prefill_seconds_ = 0;
  double device_prefill_seconds_ = 0;  // of earlier decoders
  double waited_prefill_seconds_ = 0;  // device time in prompts while no step was under way

  std::unique_ptr<IncrementalDecoder> decoder_;
  std::deque<std::shared_ptr<Job>> window_;  // read, not yet in a slot
  bool exhausted_ = false;
  bool draining_ = false;  // no admission until all slots are free, for caches of another size
  std::vector<Active> active_;
  std::vector<Step> queued_;      // at most two, or one a cohort
  std::deque<Call> calls_;        // RecGen's, at most as many as there are cohorts
  std::int64_t next_cohort_ = 0;  // whose turn it is
  std::vector<std::int64_t> free_slots_;
  // A request with more samples than there were free slots: its prompt waits, encoded, in a slot of its own (-1: only
  // one slot exists, the prompt is encoded anew for every sample).
  std::shared_ptr<Job> held_;
  std::int64_t held_slot_ = -1;
};

}  // namespace photon
