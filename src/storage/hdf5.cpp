#include "storage/hdf5.hpp"

#include <hdf5.h>

#include <algorithm>
#include <array>
#include <exception>
#include <system_error>
#include <utility>

#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {
namespace fs = std::filesystem;
namespace {

static_assert(sizeof(hid_t) == sizeof(std::int64_t));

// The innermost entry of HDF5's error stack, where the system's own reason is cut out when there is one.
std::string library_message() {
  std::string text;
  const auto visit = [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
    auto& message = *static_cast<std::string*>(out);
    if (message.empty() && error->desc != nullptr) message = error->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, visit, &text);
  H5Eclear2(H5E_DEFAULT);
  constexpr std::string_view key = "error message = '";
  if (const auto begin = text.find(key); begin != std::string::npos) {
    const auto end = text.find('\'', begin + key.size());
    text = text.substr(begin + key.size(), end - begin - key.size());
  }
  return text.empty() ? "HDF5 gives no reason" : text;
}

// Turns off the printing of errors, and the hook that would try once more at exit to write files that could not be
// written.
void start_library() {
  static const bool started = H5dont_atexit() >= 0 && H5open() >= 0;
  PHOTON_EXPECT(started, "HDF5 does not start");
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

// An HDF5 identifier that closes itself. Closing clears the error stack, so a call that may fail takes named handles,
// which outlive the reading of its message.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  operator hid_t() const { return id_; }  // NOLINT(google-explicit-constructor)

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

[[noreturn]] void fail_read(const fs::path& path, const std::string& what, const std::string& why) {
  throw InputError(fmt::format("cannot read {} in {}", what, path.string()), why,
                   "check that the file is complete and of the expected kind");
}

hid_t sixteen_bit_float(std::size_t exponent_bits) {
  const std::size_t mantissa_bits = 15 - exponent_bits;
  const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
  H5Tset_fields(type, 15, mantissa_bits, exponent_bits, 0, mantissa_bits);
  H5Tset_size(type, 2);
  H5Tset_ebias(type, (std::size_t{1} << (exponent_bits - 1)) - 1);
  return type;
}

// The type on disk and in memory: files are little-endian, as are the machines photon runs on.
Handle type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return {H5Tcopy(H5T_IEEE_F32LE), H5Tclose};
    case DType::f64:
      return {H5Tcopy(H5T_IEEE_F64LE), H5Tclose};
    case DType::f16:
      return {sixteen_bit_float(5), H5Tclose};
    case DType::bf16:
      return {sixteen_bit_float(8), H5Tclose};
    case DType::i32:
      return {H5Tcopy(H5T_STD_I32LE), H5Tclose};
    case DType::i64:
      return {H5Tcopy(H5T_STD_I64LE), H5Tclose};
    case DType::u8:
      return {H5Tcopy(H5T_STD_U8LE), H5Tclose};
    case DType::u16:
      return {H5Tcopy(H5T_STD_U16LE), H5Tclose};
    case DType::u32:
      return {H5Tcopy(H5T_STD_U32LE), H5Tclose};
    case DType::u64:
      return {H5Tcopy(H5T_STD_U64LE), H5Tclose};
  }
  PHOTON_EXPECT(false, "unknown dtype {}", static_cast<int>(dtype));
  return {-1, H5Tclose};
}

std::array<hsize_t, max_rank> dims_of(const Shape& shape) {
  std::array<hsize_t, max_rank> dims{};
  for (int i = 0; i < shape.rank(); ++i) dims[static_cast<std::size_t>(i)] = static_cast<hsize_t>(shape[i]);
  return dims;
}

Handle space_of(const Shape& shape) {
  if (shape.rank() == 0) return {H5Screate(H5S_SCALAR), H5Sclose};
  return {H5Screate_simple(shape.rank(), dims_of(shape).data(), nullptr), H5Sclose};
}

Handle file_access() {
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
  // Structures of HDF5 1.8: their metadata carries checksums, and attributes may exceed 64 KiB.
  H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_LATEST);
#if H5_VERSION_GE(1, 10, 7)
  H5Pset_file_locking(access, false, true);
#endif
  return {access, H5Pclose};
}

// No object carries its time of creation: equal contents are equal bytes.
Handle untimed(hid_t object_class) {
  const hid_t creation = H5Pcreate(object_class);
  H5Pset_obj_track_times(creation, false);
  return {creation, H5Pclose};
}

bool exists(hid_t file, const std::string& name) {
  // H5Lexists wants every group on the way to exist.
  for (auto slash = name.find('/', 1); slash != std::string::npos; slash = name.find('/', slash + 1)) {
    if (H5Lexists(file, name.substr(0, slash).c_str(), H5P_DEFAULT) <= 0) return false;
  }
  return H5Lexists(file, name.c_str(), H5P_DEFAULT) > 0;
}

Handle open_dataset(hid_t file, const fs::path& path, const std::string& name) {
  if (!exists(file, name)) fail_read(path, fmt::format("data set '{}'", name), "the file has none of that name");
  const hid_t id = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
  if (id < 0) fail_read(path, fmt::format("data set '{}'", name), library_message());
  return {id, H5Dclose};
}

Shape shape_of(hid_t dataset, const fs::path& path, const std::string& name) {
  const Handle space(H5Dget_space(dataset), H5Sclose);
  const int rank = H5Sget_simple_extent_ndims(space);
  if (rank < 0 || rank > max_rank)
    fail_read(path, fmt::format("data set '{}'", name), fmt::format("its rank is {}", rank));
  std::array<hsize_t, max_rank> dims{};
  H5Sget_simple_extent_dims(space, dims.data(), nullptr);
  std::array<std::int64_t, max_rank> sizes{};
  std::copy(dims.begin(), dims.end(), sizes.begin());
  return Shape(std::span(sizes).first(static_cast<std::size_t>(rank)));
}

DType dtype_of_dataset(hid_t dataset, const fs::path& path, const std::string& name) {
  const Handle type(H5Dget_type(dataset), H5Tclose);
  for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16, DType::i32, DType::i64, DType::u8,
                            DType::u16, DType::u32, DType::u64}) {
    if (H5Tequal(type, type_of(dtype)) > 0) return dtype;
  }
  fail_read(path, fmt::format("data set '{}'", name), "its element type is none that photon uses");
}

// Selects `count` units of dim 0 from `begin`; all of a scalar.
void select_rows(hid_t space, const Shape& shape, std::int64_t begin, std::int64_t count) {
  if (shape.rank() == 0) return;
  std::array<hsize_t, max_rank> start{};
  std::array<hsize_t, max_rank> extent = dims_of(shape);
  start[0] = static_cast<hsize_t>(begin);
  extent[0] = static_cast<hsize_t>(count);
  H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, extent.data(), nullptr);
}

bool fits_rows(const Shape& whole, std::int64_t begin, const Shape& part) {
  if (whole.rank() != part.rank() || whole.rank() == 0) return false;
  for (int i = 1; i < whole.rank(); ++i) {
    if (whole[i] != part[i]) return false;
  }
  return begin >= 0 && begin + part[0] <= whole[0];
}

Handle open_attribute(hid_t file, const fs::path& path, const std::string& name) {
  if (H5Aexists(file, name.c_str()) <= 0)
    fail_read(path, fmt::format("attribute '{}'", name), "the file has none of that name");
  const hid_t id = H5Aopen(file, name.c_str(), H5P_DEFAULT);
  if (id < 0) fail_read(path, fmt::format("attribute '{}'", name), library_message());
  return {id, H5Aclose};
}

// Checks that an attribute is one value of one of two classes. Returns its type.
Handle attribute_type(hid_t attribute, const fs::path& path, const std::string& name, H5T_class_t first,
                      H5T_class_t second) {
  const Handle space(H5Aget_space(attribute), H5Sclose);
  if (H5Sget_simple_extent_npoints(space) != 1)
    fail_read(path, fmt::format("attribute '{}'", name), "it is not one value");
  const hid_t type = H5Aget_type(attribute);
  const H5T_class_t found = H5Tget_class(type);
  if (found != first && found != second) {
    H5Tclose(type);
    fail_read(path, fmt::format("attribute '{}'", name), "it is of another type");
  }
  return {type, H5Tclose};
}

void write_attribute(hid_t file, const fs::path& path, const std::string& name, hid_t type, const void* value) {
  if (H5Aexists(file, name.c_str()) > 0) H5Adelete(file, name.c_str());
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle attribute(H5Acreate2(file, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  if (attribute < 0 || H5Awrite(attribute, type, value) < 0) {
    throw Error(fmt::format("cannot write attribute '{}' in {}", name, path.string()), library_message(),
                "check the disk's free space");
  }
}

// A string that HDF5 allocated.
struct LibraryString {
  char* text = nullptr;
  ~LibraryString() { H5free_memory(text); }
};

}  // namespace

Hdf5File::Hdf5File(std::int64_t id, fs::path path, bool created)
    : id_(id), path_(std::move(path)), created_(created), exceptions_(std::uncaught_exceptions()) {}

Hdf5File Hdf5File::create(const fs::path& path) {
  start_library();
  if (fs::exists(fs::symlink_status(path))) {
    throw Error(fmt::format("cannot create {}", path.string()), "the file exists", "remove it or name another file");
  }
  const Handle access = file_access();
  const hid_t id = H5Fcreate(path.c_str(), H5F_ACC_EXCL, untimed(H5P_FILE_CREATE), access);
  if (id < 0) {
    throw Error(fmt::format("cannot create {}", path.string()), library_message(),
                "check the folder and its permissions");
  }
  return {id, path, true};
}

Hdf5File Hdf5File::open(const fs::path& path) {
  start_library();
  const auto fail = [&](const std::string& why) {
    throw InputError(fmt::format("cannot open {}", path.string()), why, "name an HDF5 file that photon wrote");
  };
  if (!fs::exists(path)) fail("there is no such file");
  if (fs::is_directory(path)) fail("it is a folder");
  const Handle access = file_access();
  const hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access);
  if (id < 0) fail(library_message());
  return {id, path, false};
}

Hdf5File::~Hdf5File() {
  release();
}

Hdf5File::Hdf5File(Hdf5File&& other) noexcept
    : id_(std::exchange(other.id_, -1)),
      path_(std::move(other.path_)),
      created_(other.created_),
      failed_(other.failed_),
      exceptions_(other.exceptions_) {}

Hdf5File& Hdf5File::operator=(Hdf5File&& other) noexcept {
  if (this != &other) {
    release();
    id_ = std::exchange(other.id_, -1);
    path_ = std::move(other.path_);
    created_ = other.created_;
    failed_ = other.failed_;
    exceptions_ = other.exceptions_;
  }
  return *this;
}

void Hdf5File::release() noexcept {
  if (id_ < 0) return;
  if (created_ && (failed_ || std::uncaught_exceptions() > exceptions_)) {
    discard();
    return;
  }
  try {
    close();
  } catch (const std::exception& error) {
    log_text(LogLevel::error, true, error.what());
  }
}

void Hdf5File::discard() noexcept {
  // Emptied first: that gives a full disk its space back, so that HDF5 can flush and let go of the file.
  std::error_code ignored;
  fs::resize_file(path_, 0, ignored);
  H5Fclose(std::exchange(id_, -1));
  H5Eclear2(H5E_DEFAULT);
  fs::remove(path_, ignored);
}

void Hdf5File::close() {
  if (id_ < 0) return;
  if (created_ && H5Fflush(id_, H5F_SCOPE_LOCAL) < 0) {
    const std::string why = library_message();
    discard();
    throw Error(fmt::format("cannot write {}", path_.string()), why,
                "check the disk's free space; the file was removed");
  }
  if (H5Fclose(std::exchange(id_, -1)) < 0) {
    throw Error(fmt::format("cannot close {}", path_.string()), library_message(), "check the disk");
  }
}

void Hdf5File::flush() {
  if (H5Fflush(id_, H5F_SCOPE_LOCAL) < 0) {
    failed_ = true;
    throw Error(fmt::format("cannot write {}", path_.string()), library_message(), "check the disk's free space");
  }
}

void Hdf5File::create_dataset(const std::string& name, DType dtype, const Shape& shape) {
  PHOTON_EXPECT(id_ >= 0 && created_, "{} is not open for writing", path_.string());
  for (auto slash = name.find('/', 1); slash != std::string::npos; slash = name.find('/', slash + 1)) {
    const std::string group = name.substr(0, slash);
    if (exists(id_, group)) continue;
    const Handle made(H5Gcreate2(id_, group.c_str(), H5P_DEFAULT, untimed(H5P_GROUP_CREATE), H5P_DEFAULT), H5Gclose);
    if (made < 0) break;  // creating the data set says why
  }
  const Handle creation = untimed(H5P_DATASET_CREATE);
  H5Pset_layout(creation, H5D_CONTIGUOUS);
  H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER);
  const Handle type = type_of(dtype);
  const Handle space = space_of(shape);
  const Handle dataset(H5Dcreate2(id_, name.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT), H5Dclose);
  if (dataset < 0) {
    failed_ = true;
    throw Error(fmt::format("cannot create data set '{}' in {}", name, path_.string()), library_message(),
                "check the disk's free space and that the name is new");
  }
}

void Hdf5File::write_rows(const std::string& name, std::int64_t begin, const ConstTensorView& data) {
  PHOTON_EXPECT(data.space() == Space::host && data.contiguous(), "only contiguous host memory can be written to '{}'",
                name);
  const Handle dataset = open_dataset(id_, path_, name);
  const Shape shape = shape_of(dataset, path_, name);
  PHOTON_EXPECT(shape == data.shape() || fits_rows(shape, begin, data.shape()), "rows {} from {} do not fit '{}' {}",
                data.shape().str(), begin, name, shape.str());
  PHOTON_EXPECT(dtype_of_dataset(dataset, path_, name) == data.dtype(), "'{}' holds elements of another type than {}",
                name, name_of(data.dtype()));
  if (data.numel() == 0) return;
  const Handle space(H5Dget_space(dataset), H5Sclose);
  select_rows(space, shape, begin, shape.rank() == 0 ? 1 : data.size(0));
  const Handle type = type_of(data.dtype());
  const Handle memory = space_of(data.shape());
  if (H5Dwrite(dataset, type, memory, space, H5P_DEFAULT, data.data()) < 0) {
    failed_ = true;
    throw Error(fmt::format("cannot write data set '{}' in {}", name, path_.string()), library_message(),
                "check the disk's free space");
  }
}

void Hdf5File::write(const std::string& name, const ConstTensorView& data) {
  create_dataset(name, data.dtype(), data.shape());
  write_rows(name, 0, data);
}

bool Hdf5File::has(const std::string& name) const {
  return exists(id_, name);
}

Shape Hdf5File::shape(const std::string& name) const {
  return shape_of(open_dataset(id_, path_, name), path_, name);
}

DType Hdf5File::dtype(const std::string& name) const {
  return dtype_of_dataset(open_dataset(id_, path_, name), path_, name);
}

void Hdf5File::read(const std::string& name, const TensorView& data) const {
  const Shape found = shape(name);
  if (!(found == data.shape())) {
    fail_read(path_, fmt::format("data set '{}'", name),
              fmt::format("its shape is {}, wanted is {}", found.str(), data.shape().str()));
  }
  read_rows(name, 0, data);
}

void Hdf5File::read_rows(const std::string& name, std::int64_t begin, const TensorView& data) const {
  PHOTON_EXPECT(data.space() == Space::host && data.contiguous(), "'{}' can only be read into contiguous host memory",
                name);
  const Handle dataset = open_dataset(id_, path_, name);
  const std::string what = fmt::format("data set '{}'", name);
  const Shape whole = shape_of(dataset, path_, name);
  if (!(whole.rank() == 0 && data.rank() == 0) && !fits_rows(whole, begin, data.shape())) {
    fail_read(path_, what,
              fmt::format("its shape is {}, wanted are rows {} from {}", whole.str(), data.shape().str(), begin));
  }
  const DType found = dtype_of_dataset(dataset, path_, name);
  if (found != data.dtype()) {
    fail_read(path_, what, fmt::format("its elements are {}, wanted are {}", name_of(found), name_of(data.dtype())));
  }
  if (data.numel() == 0) return;
  const Handle space(H5Dget_space(dataset), H5Sclose);
  select_rows(space, whole, begin, whole.rank() == 0 ? 1 : data.size(0));
  const Handle type = type_of(found);
  const Handle memory = space_of(data.shape());
  if (H5Dread(dataset, type, memory, space, H5P_DEFAULT, data.data()) < 0) {
    fail_read(path_, what, library_message());
  }
}

std::vector<std::string> Hdf5File::datasets() const {
  struct Visit {
    hid_t file;
    std::vector<std::string> names;
  } visit{id_, {}};
  const auto collect = [](hid_t, const char* name, const H5L_info_t* info, void* data) -> herr_t {
    if (info->type != H5L_TYPE_HARD) return 0;  // links that lead elsewhere are not followed
    auto& found = *static_cast<Visit*>(data);
    const Handle object(H5Oopen(found.file, name, H5P_DEFAULT), H5Oclose);
    if (object < 0) return -1;
    if (H5Iget_type(object) == H5I_DATASET) found.names.push_back(std::string("/") + name);
    return 0;
  };
  if (H5Lvisit(id_, H5_INDEX_NAME, H5_ITER_INC, collect, &visit) < 0)
    fail_read(path_, "the list of data sets", library_message());
  return std::move(visit.names);
}

std::int64_t Hdf5File::file_offset(const std::string& name) const {
  const Handle dataset = open_dataset(id_, path_, name);
  const haddr_t offset = H5Dget_offset(dataset);
  H5Eclear2(H5E_DEFAULT);
  return offset == HADDR_UNDEF ? -1 : static_cast<std::int64_t>(offset);
}

void Hdf5File::set_attribute(const std::string& name, std::int64_t value) {
  write_attribute(id_, path_, name, H5T_STD_I64LE, &value);
}

void Hdf5File::set_attribute(const std::string& name, double value) {
  write_attribute(id_, path_, name, H5T_IEEE_F64LE, &value);
}

void Hdf5File::set_attribute(const std::string& name, const std::string& value) {
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, H5T_VARIABLE);  // what h5py gives as a str; it gives others as bytes
  H5Tset_cset(type, H5T_CSET_UTF8);
  const char* text = value.c_str();
  write_attribute(id_, path_, name, type, static_cast<const void*>(&text));
}

std::int64_t Hdf5File::attribute_int(const std::string& name) const {
  const Handle attribute = open_attribute(id_, path_, name);
  const Handle type = attribute_type(attribute, path_, name, H5T_INTEGER, H5T_INTEGER);
  std::int64_t value = 0;
  if (H5Aread(attribute, H5T_NATIVE_INT64, &value) < 0)
    fail_read(path_, fmt::format("attribute '{}'", name), library_message());
  return value;
}

double Hdf5File::attribute_double(const std::string& name) const {
  const Handle attribute = open_attribute(id_, path_, name);
  const Handle type = attribute_type(attribute, path_, name, H5T_FLOAT, H5T_INTEGER);
  double value = 0;
  if (H5Aread(attribute, H5T_NATIVE_DOUBLE, &value) < 0)
    fail_read(path_, fmt::format("attribute '{}'", name), library_message());
  return value;
}

std::string Hdf5File::attribute_text(const std::string& name) const {
  const Handle attribute = open_attribute(id_, path_, name);
  const Handle type = attribute_type(attribute, path_, name, H5T_STRING, H5T_STRING);
  if (H5Tis_variable_str(type) > 0) {
    LibraryString value;
    if (H5Aread(attribute, type, static_cast<void*>(&value.text)) < 0) {
      fail_read(path_, fmt::format("attribute '{}'", name), library_message());
    }
    return value.text == nullptr ? "" : value.text;
  }
  std::string value(H5Tget_size(type), '\0');
  if (H5Aread(attribute, type, value.data()) < 0)
    fail_read(path_, fmt::format("attribute '{}'", name), library_message());
  value.resize(std::min(value.size(), value.find('\0')));
  return value;
}

bool Hdf5File::has_attribute(const std::string& name) const {
  return H5Aexists(id_, name.c_str()) > 0;
}

}  // namespace photon
