# The build step of photon_embed: writes OUTPUT, a C++ file with the bytes of FILES (joined by commas).
string(REPLACE "," ";" files "${FILES}")
set(arrays "")
set(lookups "")
set(index 0)
foreach(file IN LISTS files)
  file(READ ${file} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  get_filename_component(name ${file} NAME)
  string(APPEND arrays "constexpr unsigned char file_${index}[] = {${bytes}0};\n")
  string(APPEND lookups "  if (file == \"${name}\") return {reinterpret_cast<const char*>(file_${index}), sizeof file_${index} - 1};\n")
  math(EXPR index "${index} + 1")
endforeach()
file(WRITE ${OUTPUT} "#include \"${HEADER}\"

#include \"support/error.hpp\"

namespace photon {
namespace {
${arrays}}  // namespace

std::string_view ${FUNCTION}(std::string_view file) {
${lookups}  PHOTON_EXPECT(false, \"no file {} is embedded\", file);
  return {};
}

}  // namespace photon
")
