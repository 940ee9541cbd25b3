#include "train/sequences.hpp"

#include <algorithm>
#include <limits>

#include "support/error.hpp"
#include "tokenizer/tokenizer.hpp"

namespace photon {

void Sequences::resize(std::int64_t count, std::int64_t length, bool masked) {
  count_ = count;
  length_ = length;
  masked_ = masked;
  tokens_.resize(static_cast<std::size_t>(count * length));
  mask_.resize(masked ? tokens_.size() : 0);
}

Batch Sequences::part(std::int64_t first, std::int64_t count) const {
  PHOTON_EXPECT(first >= 0 && count >= 1 && first + count <= count_, "sequences {} to {} of {}", first, first + count,
                count_);
  Batch batch;
  batch.tokens = host_view(tokens_.data() + first * length_, {count, length_});
  if (masked_) batch.mask = host_view(mask_.data() + first * length_, {count, length_});
  return batch;
}

TrainingData::TrainingData(const RunConfig& config)
    : samples_(config.data.train, config.train.sequence_length, config.train.seed, config.model.vocab_size) {
  masked_ = std::any_of(samples_.files().begin(), samples_.files().end(),
                        [](const TokenFile& file) { return file.has_loss_mask(); });
  if (!config.model.tokenizer.empty() && config.model.tokenizer != tokenizer()) {
    throw InputError(
        fmt::format("{} was made with the tokenizer {}", samples_.files().front().path().string(), tokenizer()),
        fmt::format("model.tokenizer is {}", config.model.tokenizer),
        "prepare the data with that tokenizer, or leave model.tokenizer out to take the data's");
  }
}

void TrainingData::load(std::int64_t first, std::int64_t count, Sequences& sequences) const {
  sequences.resize(count, samples_.sequence_length(), masked_);
  for (std::int64_t i = 0; i < count; ++i) {
    samples_.read(static_cast<std::uint64_t>(first + i), sequences.tokens(i), sequences.mask(i));
  }
}

std::filesystem::path TrainingData::tokenizer_file() const {
  if (tokenizer() == "byte") return {};
  return samples_.files().front().path().parent_path() / tokenizer();
}

std::int32_t TrainingData::start_token(const ModelConfig& model) const {
  if (model.type != ModelType::vanilla) return -1;
  if (model.start_token >= 0) return static_cast<std::int32_t>(model.start_token);
  const auto read = make_tokenizer(tokenizer(), samples_.files().front().path().parent_path());
  return read->bos() >= 0 ? read->bos() : read->eos();
}

ValidationData::ValidationData(const RunConfig& config, const std::string& tokenizer_hash)
    : sequence_length_(config.train.sequence_length) {
  for (const DataFile& entry : config.data.val) {
    TokenFile file = TokenFile::open(entry.file);
    file.check_vocabulary(config.model.vocab_size);
    if (file.tokenizer_hash() != tokenizer_hash) {
      throw InputError(fmt::format("{} was made with another tokenizer than the training data", entry.file),
                       "its tokens mean something else", "prepare both with the same tokenizer");
    }
    if (file.num_tokens() == 0)
      throw InputError(fmt::format("{} holds no tokens", entry.file), "", "choose another file");
    files_.push_back(std::move(file));
  }
}

std::vector<ValidationBatch> ValidationData::batches(std::int64_t num_sequences, std::int64_t batch_size) const {
  std::vector<ValidationBatch> result;
  std::int64_t left = num_sequences == 0 ? std::numeric_limits<std::int64_t>::max() : num_sequences;
  for (std::size_t f = 0; f < files_.size(); ++f) {
    const auto tokens = static_cast<std::int64_t>(files_[f].num_tokens());
    const std::int64_t whole = std::min(tokens / sequence_length_, left);
    for (std::int64_t first = 0; first < whole; first += batch_size) {
      result.push_back({f, static_cast<std::uint64_t>(first * sequence_length_), std::min(batch_size, whole - first),
                        sequence_length_});
    }
    left -= whole;
    const std::int64_t rest = tokens % sequence_length_;
    if (left > 0 && rest > 0) {
      result.push_back({f, static_cast<std::uint64_t>(tokens - rest), 1, rest});
      --left;
    }
  }
  return result;
}

void ValidationData::load(const ValidationBatch& batch, Sequences& sequences) const {
  const TokenFile& file = files_[batch.file];
  sequences.resize(batch.count, batch.length, file.has_loss_mask());
  file.read(batch.begin, static_cast<std::uint64_t>(batch.count * batch.length), sequences.tokens(0),
            sequences.mask(0));
}

double ValidationData::tokens_per_byte() const {
  double tokens = 0;
  double bytes = 0;
  for (const TokenFile& file : files_) {
    tokens += static_cast<double>(file.num_tokens());
    bytes += static_cast<double>(file.num_bytes());
  }
  return bytes == 0 ? std::numeric_limits<double>::quiet_NaN() : tokens / bytes;
}

}  // namespace photon
