# How Penstock is compiled, and the one way a module is declared.

set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(PENSTOCK_CCACHE ccache)
if(PENSTOCK_CCACHE)
  # The sloppiness is what ccache asks for where headers are precompiled.
  set(launcher env CCACHE_SLOPPINESS=pch_defines,time_macros ${PENSTOCK_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_C_COMPILER_LAUNCHER ${launcher})
endif()
find_program(PENSTOCK_MOLD mold)
if(PENSTOCK_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

add_compile_options(-Wall -Wextra -Werror -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  # libstdc++ 12's own std::stable_sort sets it off; GCC still warns.
  add_compile_options(-Wno-deprecated-declarations)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 sees ghosts inside std::expected and, at -O3, inside std::string::insert.
  add_compile_options(-Wno-maybe-uninitialized -Wno-restrict)
endif()
if(PENSTOCK_SANITIZE)
  add_compile_options(-fsanitize=${PENSTOCK_SANITIZE} -fno-sanitize-recover=all
                      -fno-omit-frame-pointer -g1 -D_GLIBCXX_ASSERTIONS)
  add_link_options(-fsanitize=${PENSTOCK_SANITIZE})
endif()
# What nearly every file reads anyway, read once: a third of the time of the sanitizer trees, and
# half that of tests. Files still include what they use; the other trees, which do without, find one
# that does not. GCC 12 forgets which headers are the system's and, optimising, warns of ghosts in
# them: so there only tests, which need no optimisation.
set(common_headers <algorithm> <chrono> <cstdint> <expected> <functional> <memory> <optional> <span>
                   <string> <string_view> <unordered_map> <utility> <vector> <fmt/format.h>)
set(test_headers ${common_headers} <gmock/gmock.h> <gtest/gtest.h>)
function(precompile target first)  # HEADERS...: `first` makes what all others of its kind reuse
  if(target STREQUAL first)
    target_precompile_headers(${target} PRIVATE ${ARGN})
  else()
    target_precompile_headers(${target} REUSE_FROM ${first})
  endif()
endfunction()

# Several files of a module as one, so that what each reads and instantiates is so once: a quarter
# less to compute for the asan tree. Files may then not call different things alike in their unnamed
# namespaces: the compiler says so.
function(unite target)
  if(PENSTOCK_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 9)
  endif()
endfunction()

# What sanitizer trees build: no binary, no benchmarks, only what their ctest runs need.
add_custom_target(unit_tests)
add_custom_target(threaded_tests)  # those for the thread sanitizer: without SINGLE_THREADED modules
add_custom_target(fuzzers)

# Tests that need a real vocabulary or model find it in PENSTOCK_DEMO_MODEL, and skip themselves
# without it. Sanitizer trees go without: a real model under them costs minutes and shows no more.
set(test_environment "")
if(PENSTOCK_TESTS AND NOT PENSTOCK_SANITIZE)
  execute_process(COMMAND ${CMAKE_SOURCE_DIR}/tools/model.sh --print-path
                  OUTPUT_VARIABLE demo_model OUTPUT_STRIP_TRAILING_WHITESPACE
                  COMMAND_ERROR_IS_FATAL ANY)
  if(EXISTS ${demo_model})
    set(test_environment ENVIRONMENT PENSTOCK_DEMO_MODEL=${demo_model})
  else()
    message(STATUS "no demo model: tests that need it are skipped (tools/model.sh fetches it)")
  endif()
endif()

# penstock_module(NAME USES modules... LIBS libraries... [TEST_PROCESSORS N] [SINGLE_THREADED])
#
# TEST_PROCESSORS: cores that a test of the module keeps busy; ctest runs fewer beside it.
#
# Makes from src/NAME/**:
#   penstock_NAME       every .cc that is not a test, benchmark, fuzz target or main
#   NAME_test           every *_test.cc, registered with ctest a case each, label NAME
#   NAME_bench          every *_bench.cc, with PENSTOCK_BENCH
#   <file>_fuzz         each *_fuzz.cc, with PENSTOCK_FUZZ; registered with ctest, label fuzz, as a
#                       run of PENSTOCK_FUZZ_SECONDS from a fixed seed; <file>_fuzz.dict and the
#                       folder <file>_fuzz_seeds beside it are used if they exist
function(penstock_module name)
  cmake_parse_arguments(ARG "SINGLE_THREADED" "TEST_PROCESSORS" "USES;LIBS" ${ARGN})
  if(NOT ARG_TEST_PROCESSORS)
    set(ARG_TEST_PROCESSORS 1)
  endif()
  set(dir ${CMAKE_SOURCE_DIR}/src/${name})
  file(GLOB_RECURSE all CONFIGURE_DEPENDS ${dir}/*.cc)
  set(sources ${all})
  list(FILTER sources EXCLUDE REGEX "(_test|_bench|_fuzz|/main)\\.cc$")
  set(tests ${all})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  set(benches ${all})
  list(FILTER benches INCLUDE REGEX "_bench\\.cc$")
  set(fuzzers ${all})
  list(FILTER fuzzers INCLUDE REGEX "_fuzz\\.cc$")

  add_library(penstock_${name} STATIC ${sources})
  target_include_directories(penstock_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  list(TRANSFORM ARG_USES PREPEND penstock_)
  target_link_libraries(penstock_${name} PUBLIC ${ARG_USES} ${ARG_LIBS})
  if(PENSTOCK_FUZZ)  # tells the fuzzer where it went; only fuzz targets link its main
    target_compile_options(penstock_${name} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  if(PENSTOCK_PCH)
    precompile(penstock_${name} penstock_base ${common_headers})
  endif()
  unite(penstock_${name})

  if(PENSTOCK_TESTS AND tests)
    find_package(GTest REQUIRED)
    include(GoogleTest)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE penstock_${name} GTest::gmock GTest::gtest_main)
    # The sanitizers look into what is tested: their trees spend no time on the tests themselves.
    if(PENSTOCK_SANITIZE)
      target_compile_options(${name}_test PRIVATE -O0)
    else()
      target_compile_options(${name}_test PRIVATE $<$<NOT:$<CONFIG:Debug>>:-O1>)
    endif()
    if(PENSTOCK_PCH OR CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      precompile(${name}_test base_test ${test_headers})
    endif()
    unite(${name}_test)
    gtest_discover_tests(${name}_test TEST_PREFIX ${name}. DISCOVERY_TIMEOUT 60
                         PROPERTIES LABELS ${name} TIMEOUT 300 PROCESSORS ${ARG_TEST_PROCESSORS}
                                    ${test_environment})
    add_dependencies(unit_tests ${name}_test)
    if(NOT ARG_SINGLE_THREADED)
      add_dependencies(threaded_tests ${name}_test)
    endif()
  endif()
  if(PENSTOCK_BENCH AND benches)
    find_package(benchmark REQUIRED)
    add_executable(${name}_bench ${benches})
    target_link_libraries(${name}_bench PRIVATE penstock_${name} benchmark::benchmark_main)
  endif()
  if(PENSTOCK_FUZZ)
    foreach(fuzzer ${fuzzers})
      penstock_fuzzer(${name} ${fuzzer})
    endforeach()
  endif()
endfunction()

# penstock_protos(TARGET FILES...): what protoc makes of src/FILES, messages and gRPC services, to
# be included as "path/of/file.pb.h" and "path/of/file.grpc.pb.h".
function(penstock_protos target)
  set(generated ${CMAKE_BINARY_DIR}/generated)
  set(sources "")
  foreach(proto ${ARGN})
    cmake_path(REMOVE_EXTENSION proto OUTPUT_VARIABLE stem)
    set(outputs ${generated}/${stem}.pb.cc ${generated}/${stem}.pb.h
                ${generated}/${stem}.grpc.pb.cc ${generated}/${stem}.grpc.pb.h)
    list(TRANSFORM ARGN PREPEND ${CMAKE_SOURCE_DIR}/src/ OUTPUT_VARIABLE inputs)
    add_custom_command(
      OUTPUT ${outputs}
      COMMAND ${CMAKE_COMMAND} -E make_directory ${generated}
      COMMAND protobuf::protoc --proto_path=${CMAKE_SOURCE_DIR}/src --cpp_out=${generated}
              --grpc_out=${generated} --plugin=protoc-gen-grpc=${GRPC_CPP_PLUGIN}
              ${CMAKE_SOURCE_DIR}/src/${proto}
      DEPENDS ${inputs}
      VERBATIM)
    list(APPEND sources ${outputs})
  endforeach()
  add_library(${target} STATIC ${sources})
  target_include_directories(${target} SYSTEM PUBLIC ${generated})
  target_link_libraries(${target} PUBLIC ${GRPC_CPP} ${GRPC_CORE} ${GRPC_PORT} ${GRPC_LOCKS}
                        protobuf::libprotobuf)
  target_compile_options(${target} PRIVATE -w)
  # A file's messages and its services as one; messages of two files would clash.
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 2)
  if(PENSTOCK_SANITIZE)  # not ours to look into, and as much to compile as a module
    target_compile_options(${target} PRIVATE -O0 -fno-sanitize=all)
  endif()
  set_target_properties(${target} PROPERTIES CXX_CLANG_TIDY "")
endfunction()

function(penstock_fuzzer module source)
  cmake_path(GET source STEM LAST_ONLY target)
  cmake_path(REMOVE_EXTENSION source LAST_ONLY OUTPUT_VARIABLE stem)
  add_executable(${target} ${source})
  target_link_libraries(${target} PRIVATE penstock_${module})
  # As the libraries are compiled, whose precompiled headers it shares.
  target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link -fPIC)
  target_link_options(${target} PRIVATE -fsanitize=fuzzer)
  if(PENSTOCK_PCH)
    precompile(${target} penstock_base)
  endif()
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
  add_dependencies(fuzzers ${target})

  set(arguments -timeout=10 -rss_limit_mb=2048 -artifact_prefix=${CMAKE_BINARY_DIR}/fuzz/)
  if(EXISTS ${stem}.dict)
    list(APPEND arguments -dict=${stem}.dict)
  endif()
  set(found ${CMAKE_BINARY_DIR}/fuzz/${target}_found)  # libFuzzer writes into the first folder
  file(MAKE_DIRECTORY ${found})
  list(APPEND arguments ${found})
  if(EXISTS ${stem}_seeds)
    list(APPEND arguments ${stem}_seeds)
  endif()
  math(EXPR timeout_s "${PENSTOCK_FUZZ_SECONDS} + 120")
  add_test(NAME fuzz.${target} COMMAND ${target} -seed=1 -max_total_time=${PENSTOCK_FUZZ_SECONDS}
                                       -print_final_stats=1 ${arguments})
  set_tests_properties(fuzz.${target} PROPERTIES LABELS fuzz TIMEOUT ${timeout_s})
endfunction()
