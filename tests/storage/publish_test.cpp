#include "storage/publish.hpp"

#include <gtest/gtest.h>

#include "support/error.hpp"
#include "testing/temporary.hpp"

namespace photon {
namespace {
namespace fs = std::filesystem;
using testing::run_with_fault;
using testing::TemporaryFolder;

TEST(Checksum, IsXxh3) {
  // The published value of XXH3_64bits of no bytes, seed 0.
  EXPECT_EQ(checksum_text(checksum(nullptr, 0)), "2d06800538d394c2");
}

TEST(Checksum, OfAFileIsThatOfItsBytes) {
  const TemporaryFolder folder;
  std::string bytes(5'000'011, '\0');  // more than one block
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31 >> 3);
  testing::write_bytes(folder / "f", bytes);
  EXPECT_EQ(checksum_file(folder / "f"), checksum(bytes.data(), bytes.size()));
  bytes[4'999'999] ^= 1;
  EXPECT_NE(checksum_file(folder / "f"), checksum(bytes.data(), bytes.size()));
}

TEST(PublishFile, ReplacesTheWholeFileAndLeavesNothingBeside) {
  const TemporaryFolder folder;
  publish_file(folder / "f", "first", "p");
  publish_file(folder / "f", std::string("a\0b", 3), "p");
  EXPECT_EQ(read_text_file(folder / "f"), std::string("a\0b", 3));
  publish_file(folder / "f", "", "p");
  EXPECT_EQ(read_text_file(folder / "f"), "");
  EXPECT_EQ(testing::names_in(folder.path()), (std::vector<std::string>{"f"}));
}

TEST(PublishFile, KilledAnywhereHoldsTheOldOrTheNew) {
  for (const std::string point : {"p.write", "p.rename", "p.done"}) {
    const TemporaryFolder folder;
    publish_file(folder / "f", "old", "q");
    run_with_fault(point, [&] { publish_file(folder / "f", "newer", "p"); });
    EXPECT_EQ(read_text_file(folder / "f"), point == "p.done" ? "newer" : "old") << point;
    publish_file(folder / "f", "newest", "p");  // what the crash left is no obstacle
    EXPECT_EQ(read_text_file(folder / "f"), "newest");
    EXPECT_EQ(testing::names_in(folder.path()), (std::vector<std::string>{"f"}));
  }
}

TEST(PublishFile, FullDiskLeavesTheOldFileAndNoRest) {
  const TemporaryFolder folder;
  publish_file(folder / "f", "old", "q");
  const testing::Environment fault("PHOTON_FAULT", "enospc@p.rename");
  EXPECT_ERROR(publish_file(folder / "f", "new", "p"), Error, "No space left on device");
  EXPECT_EQ(read_text_file(folder / "f"), "old");
  EXPECT_EQ(testing::names_in(folder.path()), (std::vector<std::string>{"f"}));
}

TEST(PublishFile, SaysWhichPathAndWhy) {
  const TemporaryFolder folder;
  EXPECT_ERROR(publish_file(folder / "none" / "f", "x", "p"), InputError, "none/f.tmp (No such file or directory)");
}

TEST(FaultPoint, CountsArrivals) {
  const testing::Environment fault("PHOTON_FAULT", "enospc@here:3");
  EXPECT_NO_THROW(fault_point("here"));
  EXPECT_NO_THROW(fault_point("elsewhere"));
  EXPECT_NO_THROW(fault_point("here"));
  EXPECT_THROW(fault_point("here"), Error);
  EXPECT_NO_THROW(fault_point("here"));  // only that arrival
}

TEST(PublishPath, MovesAFolderAndRefusesToReplaceOne) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "a.tmp" / "deep");
  testing::write_bytes(folder / "a.tmp" / "deep" / "f", "x");
  publish_path(folder / "a.tmp", folder / "a", "p");
  EXPECT_EQ(read_text_file(folder / "a" / "deep" / "f"), "x");
  EXPECT_FALSE(fs::exists(folder / "a.tmp"));
  fs::create_directories(folder / "b.tmp");
  EXPECT_ERROR(publish_path(folder / "b.tmp", folder / "a", "p"), Error, "a folder of that name exists");
  EXPECT_TRUE(fs::exists(folder / "b.tmp"));
}

TEST(ReplaceFolder, KilledAnywhereHoldsTheOldOrTheNew) {
  for (const std::string point : {"p.rename", "p.done"}) {
    const TemporaryFolder folder;
    const auto make = [&](const std::string& text) {
      fs::remove_all(folder / "a.tmp");
      fs::create_directories(folder / "a.tmp");
      testing::write_bytes(folder / "a.tmp" / "f", text);
    };
    make("old");
    replace_folder(folder / "a.tmp", folder / "a", "q");
    make("new");
    run_with_fault(point, [&] { replace_folder(folder / "a.tmp", folder / "a", "p"); });
    EXPECT_EQ(read_text_file(folder / "a" / "f"), point == "p.done" ? "new" : "old");
    make("newest");
    replace_folder(folder / "a.tmp", folder / "a", "p");
    EXPECT_EQ(read_text_file(folder / "a" / "f"), "newest");
    EXPECT_EQ(testing::names_in(folder.path()), (std::vector<std::string>{"a"}));
  }
}

TEST(RemovePublished, IsAllOrNothingUnderTheName) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "a");
  testing::write_bytes(folder / "a" / "f", "x");
  run_with_fault("trash", [&] { remove_published(folder / "a"); });
  EXPECT_EQ(testing::names_in(folder.path()), (std::vector<std::string>{".trash-a"}));
  fs::create_directories(folder / "a");
  remove_published(folder / "a");  // over the trash of the crash
  EXPECT_TRUE(testing::names_in(folder.path()).empty());
  EXPECT_NO_THROW(remove_published(folder / "a"));
}

TEST(FreeBytes, AsksTheNearestExistingParent) {
  const TemporaryFolder folder;
  EXPECT_GT(free_bytes(folder / "not" / "yet" / "there"), 0U);
}

TEST(ReadTextFile, RefusesFoldersAndMissingFiles) {
  const TemporaryFolder folder;
  EXPECT_ERROR(read_text_file(folder.path()), InputError, "it is a folder");
  EXPECT_ERROR(read_text_file(folder / "none"), InputError, "No such file");
}

}  // namespace
}  // namespace photon
