# photon_embed(<target> FUNCTION <name> HEADER <header> FILES <file>...): compiles files into the target as text. <header>
# declares `std::string_view <name>(std::string_view file)` in namespace photon, which gives the bytes of the file of that
# name (without its folder) and throws ContractError for one that is not there.
function(photon_embed target)
  cmake_parse_arguments(EMBED "" "FUNCTION;HEADER" "FILES" ${ARGN})
  set(generated ${CMAKE_BINARY_DIR}/embedded/${EMBED_FUNCTION}.cpp)
  set(files "")
  foreach(file IN LISTS EMBED_FILES)
    list(APPEND files ${CMAKE_SOURCE_DIR}/${file})
  endforeach()
  set(script ${CMAKE_SOURCE_DIR}/cmake/EmbedFiles.cmake)
  string(REPLACE ";" "," joined "${files}")
  add_custom_command(
    OUTPUT ${generated}
    COMMAND ${CMAKE_COMMAND} -DOUTPUT=${generated} -DFUNCTION=${EMBED_FUNCTION} -DHEADER=${EMBED_HEADER} -DFILES=${joined} -P ${script}
    DEPENDS ${files} ${script}
    COMMENT "Embedding ${EMBED_FUNCTION}"
    VERBATIM)
  target_sources(${target} PRIVATE ${generated})
endfunction()
