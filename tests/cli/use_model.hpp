// A folder with a tiny model and prompts for it.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "program.hpp"

namespace photon::testing {

inline constexpr const char* tiny_model = R"(model:
  vocab_size: 259
  tokenizer: byte
  dim: 8
  levels:
    - {dim: 12, chunk: 3, prefix: 2, encoder: {layers: 1, heads: 2, ffn: 10}, decoder: {layers: 1, heads: 2, ffn: 10}}
    - {dim: 12, chunk: 2, prefix: 2, encoder: {layers: 1, heads: 2, ffn: 10}, decoder: {layers: 1, heads: 2, ffn: 10}}
)";

class UseModel : public ProgramTest {
 protected:
  // Thirty rows, and one whose id is taken.
  void SetUp() override {
    ProgramTest::SetUp();
    write("tiny.yaml", tiny_model);
    ASSERT_EQ(photon("init --config tiny.yaml --seed 5 --output model").code, 0);
    std::string rows;
    for (int i = 0; i < 30; ++i) {
      rows +=
          nlohmann::json{
              {"id", i}, {"prompt", std::string(static_cast<std::size_t>(i % 9), 'q')}, {"max_new_tokens", 1 + i % 12}}
              .dump();
      rows += "\n";
      if (i == 20) rows += "{\"id\": 3, \"prompt\": \"twice\"}\n";
    }
    write("prompts.jsonl", rows);
  }

  static std::multiset<std::string> lines_of(const std::string& text) {
    std::istringstream in(text);
    std::multiset<std::string> all;
    for (std::string line; std::getline(in, line);) all.insert(line);
    return all;
  }
  std::multiset<std::string> lines(const std::string& name) const { return lines_of(read(path(name))); }
};

}  // namespace photon::testing
