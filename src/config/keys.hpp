// The one table of keys: every key of config.json and of a YAML file, with its unit, range and meaning. Reading,
// writing, checking and documenting are visitors of it. Internal to this room.
//
// A visitor has: scalar(Key, value), group(Key, function of a visitor), list(Key, vector, function of a visitor and an
// entry), files(Key, vector<DataFile>).
#pragma once

#include <array>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "config/run_config.hpp"

namespace photon::config {

inline constexpr std::int64_t format_version = 1;

struct Key {
  const char* name;
  const char* unit;
  const char* help;
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool min_excluded = false;
  bool max_excluded = false;
  bool is_required = false;
  const char* default_text = nullptr;  // for defaults that are no plain value

  constexpr Key(const char* key_name, const char* key_unit, const char* key_help)
      : name(key_name), unit(key_unit), help(key_help) {}
  constexpr Key at_least(double x) const {
    return with([&](Key& k) { k.min = x; });
  }
  constexpr Key at_most(double x) const {
    return with([&](Key& k) { k.max = x; });
  }
  constexpr Key above(double x) const {
    return with([&](Key& k) { k.min = x, k.min_excluded = true; });
  }
  constexpr Key below(double x) const {
    return with([&](Key& k) { k.max = x, k.max_excluded = true; });
  }
  constexpr Key required() const {
    return with([](Key& k) { k.is_required = true; });
  }
  constexpr Key defaults_to(const char* text) const {
    return with([&](Key& k) { k.default_text = text; });
  }

 private:
  template <class Change>
  constexpr Key with(Change change) const {
    Key key = *this;
    change(key);
    return key;
  }
};

// The words of an enumeration, in the order of its values.
template <class Enum>
struct Words;
template <>
struct Words<ModelType> {
  static constexpr std::array values{"photon", "vanilla"};
};
template <>
struct Words<Schedule> {
  static constexpr std::array values{"cosine", "wsd"};
};
template <>
struct Words<RecDistance> {
  static constexpr std::array values{"cosine", "smooth_l1", "mse"};
};
template <>
struct Words<Device> {
  static constexpr std::array values{"auto", "cpu", "cuda"};
};
template <>
struct Words<SplitBackward> {
  static constexpr std::array values{"auto", "on", "off"};
};
template <>
struct Words<Recompute> {
  static constexpr std::array values{"auto", "none", "layers"};
};
template <>
struct Words<Precision> {
  static constexpr std::array values{"fp32", "bf16", "fp8"};
};

// Bounds that keep every product of two sizes inside 64 bits; no model comes near them.
inline constexpr double max_width = 1 << 20;
inline constexpr double max_layers = 1 << 12;
inline constexpr double max_tokens = 1LL << 40;

template <class Visitor, class Stack>
void describe_stack(Visitor& v, Stack& c, bool with_window) {
  v.scalar(Key("layers", "", "Transformer layers").at_least(1).at_most(max_layers).required(), c.layers);
  v.scalar(Key("heads", "", "attention heads; they divide the width").at_least(1).at_most(max_width).required(),
           c.heads);
  v.scalar(Key("kv_heads", "", "heads of keys and values; they divide `heads`")
               .at_least(1)
               .at_most(max_width)
               .defaults_to("`heads`"),
           c.kv_heads);
  v.scalar(Key("ffn", "", "inner width of the SwiGLU").at_least(1).at_most(16 * max_width).required(), c.ffn);
  v.scalar(Key("rope_theta", "", "base of the rotary angles").above(0), c.rope_theta);
  if (with_window) {
    v.scalar(Key("window", "units", "units that a unit sees, itself included; 0: all earlier ones")
                 .at_least(0)
                 .at_most(max_tokens),
             c.window);
  }
}

template <class Visitor, class Level>
void describe_level(Visitor& v, Level& c) {
  v.scalar(Key("dim", "", "width of the level's encoder").at_least(1).at_most(max_width).required(), c.dim);
  v.scalar(Key("chunk", "units", "units of the level below that one unit summarises")
               .at_least(1)
               .at_most(max_decoder_positions)
               .required(),
           c.chunk);
  v.scalar(Key("prefix", "vectors", "conditioning vectors that the converter makes of one unit")
               .at_least(1)
               .at_most(max_decoder_positions)
               .required(),
           c.prefix);
  v.group(Key("encoder", "", "the encoder, of width `dim`").required(),
          [&](auto& inner) { describe_stack(inner, c.encoder, true); });
  v.group(Key("decoder", "", "the decoder, of the width of the level below").required(),
          [&](auto& inner) { describe_stack(inner, c.decoder, false); });
}

inline constexpr Key model_type_key("model_type", "",
                                    "`photon` (one level makes it a Block Transformer) or `vanilla` (a LLaMA)");

// The keys depend on c.type. The order is that of config.json.
template <class Visitor, class Model>
void describe(Visitor& v, Model& c) {
  const bool photon_model = c.type == ModelType::photon;
  std::int64_t version = format_version;
  v.scalar(Key("format_version", "", "version of the format").at_least(1), version);
  v.scalar(model_type_key, c.type);
  v.scalar(Key("vocab_size", "tokens", "size of the vocabulary").at_least(2).at_most(1LL << 31).required(),
           c.vocab_size);
  v.scalar(Key("dim", "", "width of the token embeddings").at_least(1).at_most(max_width).required(), c.dim);
  if (!photon_model) describe_stack(v, c.stack, false);
  const Key norm_eps = Key("norm_eps", "", "added to the mean square in RMSNorm").above(0).at_most(1);
  const Key tie_embeddings = Key("tie_embeddings", "", "the output head shares the embedding's weights");
  if (photon_model) {
    v.scalar(tie_embeddings, c.tie_embeddings);
    v.scalar(Key("lookback", "tokens", "tokens before a group that the level-1 decoder also sees")
                 .at_least(0)
                 .at_most(max_decoder_positions),
             c.lookback);
    v.scalar(norm_eps, c.norm_eps);
  } else {
    v.scalar(norm_eps, c.norm_eps);
    v.scalar(tie_embeddings, c.tie_embeddings);
  }
  v.scalar(Key("max_length", "tokens", "longest sequence the model takes; 0: no limit").at_least(0).at_most(max_tokens),
           c.max_length);
  v.scalar(Key("tokenizer", "",
               "`byte`, or the tokenizer's file beside config.json; empty: none, the model takes token ids only")
               .defaults_to("empty"),
           c.tokenizer);
  if (photon_model) {
    v.list(Key("levels", "", "the levels of the hierarchy, from the tokens up").required(), c.levels,
           [](auto& inner, auto& level) { describe_level(inner, level); });
  }
}

template <class Visitor, class Data>
void describe_data(Visitor& v, Data& c) {
  v.files(Key("train", "",
              "the training file of `photon prepare`, or a list of files, or of `{file, weight}`: the weights are the "
              "shares of the samples")
              .required(),
          c.train);
  v.files(Key("val", "", "the validation file or files, in the same forms").defaults_to("none"), c.val);
  v.scalar(Key("document_mask", "", "`none`: chunks and attention run across documents"), c.document_mask);
}

template <class Visitor, class Train>
void describe_train(Visitor& v, Train& c) {
  const double most = 1e15;  // steps and counts that doubles hold exactly
  v.scalar(Key("steps", "steps", "optimizer steps of the whole run").at_least(1).at_most(most), c.steps);
  v.scalar(Key("batch_size", "sequences", "sequences a step over all ranks").at_least(1).at_most(1 << 30),
           c.batch_size);
  v.scalar(Key("sequence_length", "tokens", "tokens a sequence").at_least(1).at_most(1 << 30), c.sequence_length);
  v.scalar(Key("learning_rate", "", "peak learning rate").above(0), c.learning_rate);
  v.scalar(Key("min_learning_rate", "", "learning rate at the end; at most `learning_rate`")
               .at_least(0)
               .defaults_to("`learning_rate` / 10"),
           c.min_learning_rate);
  v.scalar(Key("warmup_steps", "steps", "steps of linear warm-up; at most `steps`")
               .at_least(0)
               .at_most(most)
               .defaults_to("`steps` / 10, at most 100"),
           c.warmup_steps);
  v.scalar(Key("schedule", "", "learning rate after the warm-up: `cosine`, or `wsd`: constant, then a linear decay"),
           c.schedule);
  v.scalar(Key("decay_fraction", "", "`wsd`: share of the steps that decay, at the end").at_least(0).at_most(1),
           c.decay_fraction);
  v.scalar(Key("weight_decay", "", "AdamW's decay, of matrices only").at_least(0), c.weight_decay);
  v.scalar(Key("beta1", "", "AdamW's decay of the mean gradient").at_least(0).below(1), c.beta1);
  v.scalar(Key("beta2", "", "AdamW's decay of the mean squared gradient").at_least(0).below(1), c.beta2);
  v.scalar(Key("adam_eps", "", "AdamW's term that keeps the division finite").above(0), c.adam_eps);
  v.scalar(Key("grad_clip", "", "largest norm of the whole gradient; 0: no clipping").at_least(0), c.grad_clip);
  v.scalar(Key("alpha", "", "weight of the recursive loss beside the cross-entropy").at_least(0), c.alpha);
  v.scalar(Key("rec_distance", "", "distance in the recursive loss"), c.rec_distance);
  v.scalar(Key("rec_stop_gradient", "", "the recursive loss does not train the encoder states it compares with"),
           c.rec_stop_gradient);
  v.scalar(Key("device", "", "where to compute: `cpu`, `cuda` (a GPU), or `auto`: the GPU where there is one"),
           c.device);
  v.scalar(
      Key("precision", "",
          "arithmetic of the matrix products; master weights are fp32. `fp8`: as bf16, but the products of layers with "
          "many rows in 8-bit floats (docs/numerics.md)"),
      c.precision);
  v.scalar(Key("seed", "", "of the initial weights and of the order of the data").at_least(0), c.seed);
  v.scalar(Key("eval_every", "steps", "steps between evaluations on `data.val`; 0: only at the end")
               .at_least(0)
               .at_most(most),
           c.eval_every);
  v.scalar(Key("eval_sequences", "sequences", "sequences an evaluation reads; 0: all").at_least(0).at_most(most),
           c.eval_sequences);
  v.scalar(Key("checkpoint_every", "steps", "steps between checkpoints; 0: only at the end and when stopped")
               .at_least(0)
               .at_most(most),
           c.checkpoint_every);
  v.scalar(Key("keep_checkpoints", "checkpoints", "the newest that stay; 0: all").at_least(0).at_most(most),
           c.keep_checkpoints);
  v.scalar(Key("max_bad_steps", "steps", "steps in a row with a non-finite loss or gradient that stop the run")
               .at_least(1)
               .at_most(most),
           c.max_bad_steps);
  v.scalar(Key("spike_factor", "",
               "a step whose gradient norm is more than so many times the mean of about the last 50 makes no update; "
               "0: every finite step does")
               .at_least(0),
           c.spike_factor);
  v.scalar(Key("check_replicas_every", "steps",
               "steps between comparisons of the weights of all ranks that hold the same layers, bit for bit; 0: none")
               .at_least(0)
               .at_most(most),
           c.check_replicas_every);
  v.scalar(Key("log_every", "steps", "steps between lines on a console that is no terminal; 0: a line every 10 s")
               .at_least(0)
               .at_most(most),
           c.log_every);
  v.scalar(Key("deterministic", "", "results do not depend on threads or batch, at some cost in speed"),
           c.deterministic);
}

template <class Visitor, class Parallel>
void describe_parallel(Visitor& v, Parallel& c) {
  v.scalar(
      Key("data", "replicas", "data-parallel replicas; 0: as many as the ranks allow").at_least(0).at_most(1 << 20),
      c.data);
  v.scalar(Key("stages", "stages", "pipeline stages of a replica").at_least(1).at_most(1 << 20), c.stages);
  v.scalar(Key("shards", "shards",
               "ranks of a replica that share the groups of the last stage, which then holds decoders only")
               .at_least(1)
               .at_most(1 << 20),
           c.shards);
  v.scalar(
      Key("cut", "",
          "the layers that begin the second and later stages, of the chain `encoder1` .. `encoderL`, `decoderL` .. "
          "`decoder1`: e.g. `decoder2,decoder1`, or `encoder1.2,decoder1` to begin one with layer 2 of encoder 1; "
          "vanilla: `layer.6`")
          .defaults_to("where the stages take the most equal work"),
      c.cut);
  v.scalar(Key("microbatch_size", "sequences",
               "sequences a forward and backward pass on one replica; 0: chosen by the memory there is")
               .at_least(0)
               .at_most(1 << 30),
           c.microbatch_size);
  v.scalar(Key("zero", "",
               "1: the ranks that hold the same tensors (replicas, shards) divide the optimizer's moments and the "
               "update among them (ZeRO stage 1); 0: each does it all")
               .at_least(0)
               .at_most(1),
           c.zero);
  v.scalar(Key("recompute", "",
               "activations: `none` keeps them all from the forward to the backward, `layers` keeps each layer's input "
               "and computes the rest again, to the same bits; `auto`: `layers` where `none` does not fit the memory"),
           c.recompute);
  v.scalar(
      Key("split_backward", "",
          "pipelines: `on` passes a microbatch's gradients to the stage before, and computes those of weights later, "
          "where the stage would wait, to the same bits; it keeps more activations and excludes "
          "`recompute: layers`; `auto`: where that is predicted to be faster and fits the memory"),
      c.split_backward);
  const auto deadline = [&](const char* name, const char* help, auto& value) {
    v.scalar(Key(name, "s", help).at_least(1).at_most(1 << 20), value);
  };
  deadline("setup_deadline", "how long a rank waits for others at the start before it gives up", c.setup_deadline);
  deadline("step_deadline", "the same in a step, and in an evaluation; longer than the slowest step", c.step_deadline);
  deadline("save_deadline", "the same while a checkpoint is saved", c.save_deadline);
}

template <class Visitor, class Run>
void describe_run(Visitor& v, Run& c) {
  std::int64_t version = format_version;
  v.scalar(Key("format_version", "", "version of the format").at_least(1), version);
  v.group(Key("model", "", "the model: the keys of config.json").required(),
          [&](auto& inner) { describe(inner, c.model); });
  v.group(Key("data", "", "what to train on"), [&](auto& inner) { describe_data(inner, c.data); });
  v.group(Key("train", "", "how to train"), [&](auto& inner) { describe_train(inner, c.train); });
  v.group(Key("parallel", "", "how the ranks share the work"),
          [&](auto& inner) { describe_parallel(inner, c.parallel); });
}

}  // namespace photon::config
