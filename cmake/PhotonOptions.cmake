# Build type, language level, warnings, sanitizers, compiler cache.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, Debug or RelWithDebInfo" FORCE)
endif()

option(PHOTON_TESTS "Build the tests" ON)
option(PHOTON_WERROR "Treat warnings as errors" ON)
set(PHOTON_SANITIZE "" CACHE STRING "Sanitizers for every target, e.g. address,undefined")
set(PHOTON_BLAS "openblas" CACHE STRING "openblas, or the pkg-config module of another library with cblas.h")

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Paths below the source tree count relative to it, so that several build trees share their objects.
  set(launcher ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE_PROGRAM})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${launcher})
endif()

# Flags every photon target compiles with; third-party headers are SYSTEM and stay outside.
add_library(photon_flags INTERFACE)
target_compile_options(photon_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${PHOTON_WERROR}>>:-Werror>)
if(PHOTON_SANITIZE)
  target_compile_options(photon_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${PHOTON_SANITIZE} -fno-sanitize-recover=all
                                                -fno-omit-frame-pointer>)
  target_link_options(photon_flags INTERFACE -fsanitize=${PHOTON_SANITIZE})
endif()
