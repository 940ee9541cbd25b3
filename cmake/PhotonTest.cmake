# photon_test(<name> [ROOM <room>] [LINKS <target>...]): the program test_<name> of every tests/<name>/*.cpp, which tests
# the room of that name or the one given; each GoogleTest case becomes a ctest. Cases whose source is named *.mpi.cpp go to
# photon_mpi_test instead.
#
# photon_mpi_test(<name> NP <ranks>... SOURCES <file>... [LINKS ...]): one ctest <name>/<np> for each number of ranks; the
# program's main (tests/testing/mpi_main.cpp) fails when no test ran and takes the worst result over all ranks. Leaks are not
# looked for there: Open MPI's plug-ins are unloaded with memory unfreed, which LeakSanitizer cannot name.
find_package(GTest REQUIRED)
include(GoogleTest)

function(photon_test name)
  cmake_parse_arguments(TEST "" "ROOM" "LINKS" ${ARGN})
  if(NOT TEST_ROOM)
    set(TEST_ROOM ${name})
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/${name}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "\\.mpi\\.cpp$")
  if(NOT sources)
    return()
  endif()
  add_executable(test_${name} ${sources})
  target_link_libraries(test_${name} PRIVATE photon_${TEST_ROOM} photon_flags photon_testing GTest::gtest GTest::gtest_main
                                             ${TEST_LINKS})
  gtest_discover_tests(test_${name} TEST_PREFIX ${name}/ DISCOVERY_MODE PRE_TEST PROPERTIES TIMEOUT 600
                       ENVIRONMENT "OMP_NUM_THREADS=2;OMP_WAIT_POLICY=passive")
endfunction()

function(photon_mpi_test name)
  cmake_parse_arguments(TEST "" "" "NP;SOURCES;LINKS" ${ARGN})
  add_executable(test_${name} ${TEST_SOURCES} ${CMAKE_SOURCE_DIR}/tests/testing/mpi_main.cpp)
  target_link_libraries(test_${name} PRIVATE photon_flags photon_testing GTest::gtest MPI::MPI_CXX ${TEST_LINKS})
  foreach(np IN LISTS TEST_NP)
    add_test(NAME ${name}/${np} COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe -np ${np} $<TARGET_FILE:test_${name}>)
    set_tests_properties(${name}/${np} PROPERTIES TIMEOUT 300 PROCESSORS 2 ENVIRONMENT
      "OMP_NUM_THREADS=1;OMP_WAIT_POLICY=passive;OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;ASAN_OPTIONS=detect_leaks=0")
  endforeach()
endfunction()
