// A thin, owning layer over HDF5's C interface: files, data sets, attributes. File locking is off (network file
// systems); photon never opens one file twice for writing. Errors carry the file, the object and HDF5's own message.
// The HDF5 library of the distributions is not thread-safe: use files from one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tensor/view.hpp"

namespace photon {

class Hdf5File {
 public:
  static Hdf5File create(const std::filesystem::path& path);  // fails when it exists
  static Hdf5File open(const std::filesystem::path& path);    // read only; InputError when missing or not HDF5
  // Closes. A file made by create() that met a failed write, or that an exception leaves behind, is removed.
  ~Hdf5File();
  Hdf5File(Hdf5File&& other) noexcept;
  Hdf5File& operator=(Hdf5File&& other) noexcept;

  // Whole contiguous data sets; intermediate groups are made. Host memory, contiguous views.
  void write(const std::string& name, const ConstTensorView& data);
  bool has(const std::string& name) const;
  Shape shape(const std::string& name) const;  // Errors: InputError when missing
  DType dtype(const std::string& name) const;
  void read(const std::string& name, const TensorView& data) const;  // shape and dtype must match
  // `count` units of dim 0 from `begin`.
  void read_rows(const std::string& name, std::int64_t begin, const TensorView& data) const;
  // Paths of all data sets, e.g. "/tokens", "/logits/0".
  std::vector<std::string> datasets() const;
  // Byte offset of a contiguous, allocated data set within the file, for mapping; -1 when it is not contiguous.
  std::int64_t file_offset(const std::string& name) const;

  // A contiguous data set made now (its bytes are allocated, their values undefined) and filled by write_rows.
  void create_dataset(const std::string& name, DType dtype, const Shape& shape);
  void write_rows(const std::string& name, std::int64_t begin, const ConstTensorView& data);

  void set_attribute(const std::string& name, std::int64_t value);
  void set_attribute(const std::string& name, double value);
  void set_attribute(const std::string& name, const std::string& value);
  std::int64_t attribute_int(const std::string& name) const;  // Errors: InputError when missing or of another type
  double attribute_double(const std::string& name) const;
  std::string attribute_text(const std::string& name) const;
  bool has_attribute(const std::string& name) const;

  void flush();
  // Closes and reports errors (the destructor cannot); a created file that cannot be completed is removed.
  void close();

 private:
  Hdf5File(std::int64_t id, std::filesystem::path path, bool created);
  void release() noexcept;
  void discard() noexcept;

  std::int64_t id_ = -1;
  std::filesystem::path path_;
  bool created_ = false;
  bool failed_ = false;  // a write failed: what the file holds is worth nothing
  int exceptions_ = 0;   // in flight when the file was made
};

}  // namespace photon
