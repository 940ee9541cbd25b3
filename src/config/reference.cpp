// docs/configuration.md, from the table of keys.
#include "config/cluster_keys.hpp"
#include "config/visitors.hpp"

namespace photon {
namespace config {
namespace {

// Table rows of all keys below one section.
class Rows {
 public:
  std::string text;

  explicit Rows(std::string path) : path_(std::move(path)) {}

  template <class T>
  void scalar(const Key& key, const T& value) {
    Json plain;
    if constexpr (std::is_enum_v<T>)
      plain = Words<T>::values[static_cast<std::size_t>(value)];
    else
      plain = value;
    row(key, describe_type<T>(key), fmt::format("`{}`", plain.is_string() ? plain.get<std::string>() : plain.dump()));
  }
  void files(const Key& key, const std::vector<DataFile>&) { row(key, "a file or a list", "none"); }
  template <class Inner>
  void group(const Key& key, Inner inner) {
    row(key, "a section", "");
    Rows nested(join_path(path_, key.name));
    inner(nested);
    text += nested.text;
  }
  template <class Item, class Inner>
  void list(const Key& key, const std::vector<Item>&, Inner inner) {
    row(key, "a list", "none");
    Rows nested(join_path(path_, key.name) + "[]");
    const Item example{};
    inner(nested, example);
    text += nested.text;
  }

 private:
  void row(const Key& key, const std::string& type, const std::string& default_value) {
    const std::string shown = key.is_required               ? "required"
                              : key.default_text != nullptr ? key.default_text
                                                            : default_value;
    text += fmt::format("| `{}` | {} | {} | {} | {} |\n", join_path(path_, key.name), type, key.unit, shown, key.help);
  }
  std::string path_;
};

template <class Describe>
std::string table(const std::string& heading, const std::string& introduction, Describe describe_keys) {
  Rows rows("");
  describe_keys(rows);
  return fmt::format("\n## {}\n{}\n\n| key | type | unit | default | meaning |\n|---|---|---|---|---|\n{}", heading,
                     introduction, rows.text);
}

constexpr const char* introduction = R"(# Configuration

Every key of a YAML file, with its type, unit and default. `photon help config` prints this page; both come from the table
that the reader itself uses.

A file has the sections `model`, `data`, `train` and `parallel`. Every key has a default but `data.train` and the model. The
model may start from a preset, `preset: NAME` at the top of the file or inside `model`, and replace any of its keys: sections
merge key by key, the list `levels` is replaced whole.

```yaml
model:
  preset: photon-60m
  vocab_size: 259
  tokenizer: byte
data:
  train: data/train.h5
  val: data/val.h5
train:
  steps: 2000
  sequence_length: 512
```

`--set key=value` replaces one key from the command line, the value read as YAML: `--set train.steps=10`, `--set
model.levels.0.chunk=8` (entries count from 0), `--set data.train='[a.h5, b.h5]'`; `--set parallel.cut=` empties a
text or a list of files. Later ones win; a preset is chosen before the other keys are set. An unknown key, a key given twice, a wrong type or a value out of range is an error. Relative paths are
relative to the folder in which the command runs. A file that names a newer `format_version` is refused.
)";

}  // namespace
}  // namespace config

std::string configuration_reference() {
  using namespace config;
  const RunConfig photon_run;
  ModelConfig vanilla;
  vanilla.type = ModelType::vanilla;
  std::string text = config::introduction;
  text += fmt::format("\nPresets: {}.\n", fmt::join(preset_names(), ", "));
  text += table("`model` with `model_type: photon`", "Also the keys of `config.json` in a weights folder.",
                [&](auto& v) { describe(v, photon_run.model); });
  text += fmt::format("\nA decoder's short sequence, `prefix + lookback + chunk - 1` positions, has at most {}.\n",
                      max_decoder_positions);
  text += table("`model` with `model_type: vanilla`", "A LLaMA-style decoder-only Transformer.",
                [&](auto& v) { describe(v, static_cast<const ModelConfig&>(vanilla)); });
  text += table("`data`", "What to train on.", [&](auto& v) { describe_data(v, photon_run.data); });
  text += table("`train`", "How to train.", [&](auto& v) { describe_train(v, photon_run.train); });
  text +=
      table("`parallel`", "How the ranks share the work.", [&](auto& v) { describe_parallel(v, photon_run.parallel); });
  text +=
      table("Cluster files",
            "The machines that `photon plan --cluster FILE` plans for: a file of its own, as in `configs/cluster/`.",
            [&](auto& v) { describe_cluster(v, static_cast<const ClusterConfig&>(ClusterConfig{})); });
  return text;
}

}  // namespace photon
