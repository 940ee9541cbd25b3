#include "storage/hdf5.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <ctime>
#include <limits>
#include <thread>

#include "support/error.hpp"
#include "testing/temporary.hpp"

namespace photon {
namespace {
namespace fs = std::filesystem;
using testing::TemporaryFolder;

template <class T>
void expect_round_trip(const fs::path& path, const std::vector<T>& values) {
  const auto n = static_cast<std::int64_t>(values.size());
  {
    Hdf5File file = Hdf5File::create(path);
    file.write("group/x", host_view(values.data(), {n}));
    file.close();
  }
  const Hdf5File file = Hdf5File::open(path);
  EXPECT_EQ(file.dtype("group/x"), dtype_of<T>);
  EXPECT_TRUE(file.shape("group/x") == Shape({n}));
  std::vector<T> back(values.size());
  file.read("group/x", host_view(back.data(), {n}));
  EXPECT_EQ(std::memcmp(back.data(), values.data(), values.size() * sizeof(T)), 0) << name_of(dtype_of<T>);
  fs::remove(path);
}

TEST(Hdf5, EveryTypeComesBackBitForBit) {
  const TemporaryFolder folder;
  const fs::path path = folder / "x.h5";
  expect_round_trip<float>(path, {1.5F, -0.0F, std::numeric_limits<float>::quiet_NaN(), 1e-42F});
  expect_round_trip<double>(path, {1.0 / 3, std::numeric_limits<double>::infinity()});
  expect_round_trip<float16>(path, {{0x3c00}, {0x7e01}, {0x0001}});
  expect_round_trip<bfloat16>(path, {{0x3f80}, {0x7fc1}, {0x0001}});
  expect_round_trip<std::int32_t>(path, {-1, 0, 2147483647});
  expect_round_trip<std::int64_t>(path, {-1, std::numeric_limits<std::int64_t>::max()});
  expect_round_trip<std::uint8_t>(path, {0, 255});
  expect_round_trip<std::uint16_t>(path, {0, 65535});
  expect_round_trip<std::uint32_t>(path, {0, 4294967295U});
  expect_round_trip<std::uint64_t>(path, {0, std::numeric_limits<std::uint64_t>::max()});
}

TEST(Hdf5, ShapesOfEveryRank) {
  const TemporaryFolder folder;
  std::vector<float> values(24);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  Hdf5File file = Hdf5File::create(folder / "x.h5");
  const std::vector<std::pair<std::string, Shape>> cases = {{"r0", {}},        {"r1", {24}},         {"r2", {4, 6}},
                                                            {"r3", {2, 3, 4}}, {"r4", {1, 2, 3, 4}}, {"empty", {0}},
                                                            {"empty2", {3, 0}}};
  for (const auto& [name, shape] : cases) file.write(name, host_view(values.data(), shape));
  file.close();
  const Hdf5File again = Hdf5File::open(folder / "x.h5");
  for (const auto& [name, shape] : cases) {
    EXPECT_TRUE(again.shape(name) == shape) << name;
    std::vector<float> back(values.size(), -1);
    again.read(name, host_view(back.data(), shape));
    EXPECT_EQ(std::memcmp(back.data(), values.data(), static_cast<std::size_t>(shape.numel()) * 4), 0) << name;
  }
}

TEST(Hdf5, RowsAreWrittenAndReadInPieces) {
  const TemporaryFolder folder;
  Hdf5File file = Hdf5File::create(folder / "x.h5");
  file.create_dataset("a/b", DType::u16, {7, 3});
  std::vector<std::uint16_t> values(21);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint16_t>(i);
  file.write_rows("a/b", 5, host_view(values.data() + 15, {2, 3}));
  file.write_rows("a/b", 0, host_view(values.data(), {5, 3}));
  EXPECT_THROW(file.write_rows("a/b", 6, host_view(values.data(), {2, 3})), ContractError);
  EXPECT_THROW(file.write_rows("a/b", -1, host_view(values.data(), {1, 3})), ContractError);
  std::vector<float> wrong(3);
  EXPECT_THROW(file.write_rows("a/b", 0, host_view(wrong.data(), {1, 3})), ContractError);
  file.close();
  const Hdf5File again = Hdf5File::open(folder / "x.h5");
  std::vector<std::uint16_t> rows(6);
  again.read_rows("/a/b", 4, host_view(rows.data(), {2, 3}));
  EXPECT_EQ(rows, (std::vector<std::uint16_t>{12, 13, 14, 15, 16, 17}));
  EXPECT_ERROR(again.read_rows("a/b", 6, host_view(rows.data(), {2, 3})), InputError, "[7, 3]");
}

TEST(Hdf5, OffsetLeadsToTheBytes) {
  const TemporaryFolder folder;
  const std::vector<std::uint32_t> values = {0xdeadbeef, 0x12345678, 7};
  Hdf5File file = Hdf5File::create(folder / "x.h5");
  file.write("tokens", host_view(values.data(), {3}));
  file.close();
  const std::int64_t offset = Hdf5File::open(folder / "x.h5").file_offset("tokens");
  ASSERT_GT(offset, 0);
  const std::string bytes = testing::read_bytes(folder / "x.h5");
  EXPECT_EQ(std::memcmp(bytes.data() + offset, values.data(), 12), 0);
}

TEST(Hdf5, AttributesKeepTypeAndValue) {
  const TemporaryFolder folder;
  const std::string large(200'000, 'y');
  Hdf5File file = Hdf5File::create(folder / "x.h5");
  file.set_attribute("count", std::int64_t{1});
  file.set_attribute("count", std::int64_t{-5});  // replaced
  file.set_attribute("share", 0.1);
  file.set_attribute("name", std::string("Zürich"));
  file.set_attribute("empty", std::string());
  file.set_attribute("large", large);
  file.close();
  const Hdf5File again = Hdf5File::open(folder / "x.h5");
  EXPECT_EQ(again.attribute_int("count"), -5);
  EXPECT_EQ(again.attribute_double("share"), 0.1);
  EXPECT_EQ(again.attribute_double("count"), -5.0);
  EXPECT_EQ(again.attribute_text("name"), "Zürich");
  EXPECT_EQ(again.attribute_text("empty"), "");
  EXPECT_EQ(again.attribute_text("large"), large);
  EXPECT_FALSE(again.has_attribute("none"));
  EXPECT_ERROR(again.attribute_int("none"), InputError, "attribute 'none'");
  EXPECT_ERROR(again.attribute_int("name"), InputError, "another type");
  EXPECT_ERROR(again.attribute_text("count"), InputError, "another type");
}

TEST(Hdf5, ListsDataSetsOfAllGroups) {
  const TemporaryFolder folder;
  const std::vector<float> one = {1};
  Hdf5File file = Hdf5File::create(folder / "x.h5");
  for (const char* name : {"tokens", "logits/0", "logits/10", "a/b/c"}) file.write(name, host_view(one.data(), {1}));
  EXPECT_EQ(file.datasets(), (std::vector<std::string>{"/a/b/c", "/logits/0", "/logits/10", "/tokens"}));
  EXPECT_TRUE(file.has("logits/0"));
  EXPECT_TRUE(file.has("logits"));
  EXPECT_FALSE(file.has("none/0"));
}

TEST(Hdf5, EqualContentsAreEqualBytes) {
  const TemporaryFolder folder;
  const std::vector<float> values = {1, 2, 3};
  for (const char* name : {"x.h5", "y.h5"}) {
    // HDF5 would store the time in seconds: the second file is made in another one.
    const std::time_t before = std::time(nullptr);
    while (name[0] == 'y' && std::time(nullptr) == before) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    Hdf5File file = Hdf5File::create(folder / name);
    file.write("v", host_view(values.data(), {3}));
    file.write("group/inner/v", host_view(values.data(), {3}));
    file.set_attribute("a", std::string("b"));
    file.close();
  }
  EXPECT_EQ(testing::read_bytes(folder / "x.h5"), testing::read_bytes(folder / "y.h5"));
}

TEST(Hdf5, RefusesWhatIsNotThereOrNotHdf5) {
  const TemporaryFolder folder;
  EXPECT_ERROR(Hdf5File::open(folder / "none.h5"), InputError, "there is no such file");
  EXPECT_ERROR(Hdf5File::open(folder.path()), InputError, "it is a folder");
  testing::write_bytes(folder / "text.h5", "not HDF5 at all");
  EXPECT_ERROR(Hdf5File::open(folder / "text.h5"), InputError, "text.h5");
  Hdf5File file = Hdf5File::create(folder / "x.h5");
  const std::vector<float> values = {1, 2, 3};
  file.write("v", host_view(values.data(), {3}));
  EXPECT_ERROR(file.write("v", host_view(values.data(), {3})), Error, "'v'");
  EXPECT_ERROR(Hdf5File::create(folder / "x.h5"), Error, "the file exists");
}

TEST(Hdf5, RefusesOtherShapesAndTypes) {
  const TemporaryFolder folder;
  std::vector<float> values = {1, 2, 3, 4};
  Hdf5File made = Hdf5File::create(folder / "x.h5");
  made.write("v", host_view(values.data(), {4}));
  made.close();
  const Hdf5File file = Hdf5File::open(folder / "x.h5");
  EXPECT_ERROR(file.read("v", host_view(values.data(), {3})), InputError, "its shape is [4], wanted is [3]");
  EXPECT_ERROR(file.read("w", host_view(values.data(), {4})), InputError, "'w'");
  std::vector<double> doubles(4);
  EXPECT_ERROR(file.read("v", host_view(doubles.data(), {4})), InputError, "its elements are f32, wanted are f64");
  EXPECT_ERROR(file.shape("w"), InputError, "x.h5");
}

TEST(Hdf5, TruncatedFilesAreErrors) {
  const TemporaryFolder folder;
  std::vector<float> values(10'000, 1.0F);
  Hdf5File made = Hdf5File::create(folder / "x.h5");
  made.write("v", host_view(values.data(), {10'000}));
  made.close();
  const auto size = fs::file_size(folder / "x.h5");
  for (const std::uintmax_t left : {std::uintmax_t{0}, std::uintmax_t{20}, size / 2, size - 1}) {
    fs::resize_file(folder / "x.h5", left);
    EXPECT_THROW(Hdf5File::open(folder / "x.h5"), InputError) << left;
  }
}

TEST(Hdf5, AnExceptionRemovesTheUnfinishedFile) {
  const TemporaryFolder folder;
  try {
    Hdf5File file = Hdf5File::create(folder / "x.h5");
    file.set_attribute("a", std::int64_t{1});
    throw Error("p", "w", "r");
  } catch (const Error&) {
  }
  EXPECT_TRUE(testing::names_in(folder.path()).empty());
}

// A limit on the size of files stands in for a full disk: writes fail half-way, inside the library.
TEST(Hdf5, AFailingWriteIsAnErrorAndTheFileGoes) {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100'000, 100'000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(10);
    const std::vector<float> values(50'000, 1.0F);
    for (int attempt = 0; attempt < 3; ++attempt) {
      try {
        Hdf5File file = Hdf5File::create(folder / "x.h5");
        file.write("v", host_view(values.data(), {50'000}));
        file.close();
        ::_exit(11);
      } catch (const Error& error) {
        if (std::string(error.what()).find("File too large") == std::string::npos) ::_exit(12);
      }
      if (fs::exists(folder / "x.h5")) ::_exit(13);
    }
    // Nothing of the failed files is still open: descriptors are dealt out lowest first.
    const int next = ::dup(0);
    ::_exit(next > 20 ? 14 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace photon
