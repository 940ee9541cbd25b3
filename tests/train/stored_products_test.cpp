#include "train/stored_products.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "comm/world.hpp"
#include "kernels/product_choices.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"
#include "testing/compare.hpp"
#include "testing/temporary.hpp"
#include "tiny_run.hpp"
#include "train/trainer.hpp"

namespace photon {
namespace {

using testing::TemporaryFolder;

// As another process would have written it: one choice, which this process does not know.
std::string choice_of(const std::string& machine, int algorithm) {
  std::string encoded;
  for (int word = 0; word < 8; ++word) encoded += std::string(15, '0') + std::to_string(algorithm);
  return "{\"format_version\": 1, \"products\": [{\"machine\": \"" + machine +
         "\", \"product\": \"a product\", \"algorithm\": \"" + encoded + "\", \"microseconds\": 2.5}]}";
}

std::uint64_t algorithm_of(const std::string& machine) {
  const std::optional<ProductChoice> choice = find_product_choice(machine, "a product");
  return choice ? choice->algorithm[0] : 0;
}

TEST(StoredProducts, AreTakenOverFromTheRanksOwnFile) {
  const TemporaryFolder folder;
  publish_file(folder / "rank-0.json", choice_of("of rank 0", 5), "test");
  publish_file(folder / "rank-1.json", choice_of("of rank 1", 6), "test");
  EXPECT_EQ(StoredProducts(folder / "rank-1.json", folder / "rank-0.json").restore(), 1);
  EXPECT_EQ(algorithm_of("of rank 1"), 6U);
  EXPECT_EQ(algorithm_of("of rank 0"), 0U);
  EXPECT_EQ(StoredProducts(folder / "rank-2.json", folder / "rank-0.json").restore(), 1);
  EXPECT_EQ(algorithm_of("of rank 0"), 5U);
  EXPECT_EQ(StoredProducts(folder / "rank-4.json", folder / "rank-3.json").restore(), 0);
}

TEST(StoredProducts, AreWrittenWhenTheyChange) {
  const TemporaryFolder folder;
  keep_product_choice("written", "a product", {{9}, 1});
  const std::filesystem::path file = folder / "products" / "rank-0.json";
  StoredProducts products(file, file);
  products.store();
  EXPECT_EQ(read_text_file(file), product_choices());
  std::filesystem::remove(file);
  products.store();  // nothing new
  EXPECT_FALSE(std::filesystem::exists(file));
  keep_product_choice("written", "another product", {{9}, 1});
  products.store();
  EXPECT_EQ(read_text_file(file), product_choices());
}

TEST(StoredProducts, RefusesADamagedFileByName) {
  const TemporaryFolder folder;
  const std::filesystem::path file = folder / "rank-0.json";
  publish_file(file, "{\"format_version\": 1", "test");
  EXPECT_ERROR(StoredProducts(file, file).restore(), InputError, "rank-0.json cannot be used");
  publish_file(file, "{\"format_version\": 99, \"products\": []}", "test");
  EXPECT_ERROR(StoredProducts(file, file).restore(), InputError, "format_version 99");
}

// A run stores what its process chose, and takes over what it stored before its first step.
TEST(StoredProducts, GoWithTheRunFolder) {
  const testing::TinyData data;
  const auto train = [&](const std::string& steps) {
    World world;
    Trainer(world, data.config({"train.steps=" + steps, "train.warmup_steps=0"}),
            {.run = data / "run", .init_from = {}})
        .run();
  };
  keep_product_choice("of the run", "a product", {{7}, 1});
  train("1");
  const std::filesystem::path file = data / "run" / "products" / "rank-0.json";
  EXPECT_EQ(read_text_file(file), product_choices());
  publish_file(file, choice_of("of the run before", 8), "test");
  train("2");
  EXPECT_EQ(algorithm_of("of the run before"), 8U);
  EXPECT_EQ(read_text_file(file), product_choices());  // and what this process chose
}

}  // namespace
}  // namespace photon
