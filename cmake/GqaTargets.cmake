# gqa_test, gqa_example and gqa_benchmark: one line a program.

# Whether the build's own flags bring a sanitizer.
set(gqa_sanitized FALSE)
if("${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_RELEASE}" MATCHES "-fsanitize=")
  set(gqa_sanitized TRUE)
endif()

# The flags our own programs are held to; users of gqa::gqa never see them.
add_library(gqa_warnings INTERFACE)
target_compile_options(gqa_warnings INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND gqa_sanitized)
  # Instrumented loops look as if they left arrays unset; and ThreadSanitizer does not know the fences in Eigen's pool.
  target_compile_options(gqa_warnings INTERFACE -Wno-maybe-uninitialized -Wno-tsan)
endif()
target_compile_options(gqa_compiled PRIVATE "$<TARGET_PROPERTY:gqa_warnings,INTERFACE_COMPILE_OPTIONS>")

# Compiling is most of what tests cost. The kernels they run are those of gqa::compiled, with the build's own flags; the
# rest of a test runs once, and under a sanitizer takes three times as long to optimise as to compile. Those that loop
# for long themselves, most of them in the oracle, are worth it there too.
add_library(gqa_test_flags INTERFACE)
set(gqa_optimised_tests "^$")
if(gqa_sanitized)
  target_compile_options(gqa_test_flags INTERFACE -O0)
  set(gqa_optimised_tests
      "^simd_exp2_test$|^mask_compose_test$|^attention_(oracle|scores|masks|cascade)_test$|_model_test$")
else()
  target_compile_options(gqa_test_flags INTERFACE -O1)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # At -O1 GCC 12 takes the way on which a vector's memory is freed after a throw for one with another pointer.
    target_compile_options(gqa_test_flags INTERFACE -Wno-free-nonheap-object)
  endif()
endif()

# gqa_test(kv/cache_test.cpp [NAME name] [SOURCES file...] [LIBS library...] [NO_PCH])
# Builds kv_cache_test from the file (and SOURCES) and registers its cases with ctest.
# NO_PCH is for a test that must see only what it includes, or whose LIBS bring compiler flags.
function(gqa_test file)
  cmake_parse_arguments(PARSE_ARGV 1 arg "NO_PCH" "NAME" "SOURCES;LIBS")
  set(name "${arg_NAME}")
  if(NOT name)
    string(REGEX REPLACE "\\.cpp$" "" name "${file}")
    string(REPLACE "/" "_" name "${name}")
  endif()
  add_executable(${name} ${file} ${arg_SOURCES})
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_link_libraries(${name} PRIVATE gqa::compiled gqa_warnings GTest::gtest_main ${arg_LIBS})
  if(name MATCHES "${gqa_optimised_tests}")
    set(arg_NO_PCH TRUE)  # a precompiled header must have a file's own flags
  else()
    target_link_libraries(${name} PRIVATE gqa_test_flags)
  endif()
  if(NOT arg_NO_PCH)
    target_precompile_headers(${name} REUSE_FROM gqa_test_pch)
  endif()
  if(gqa_sanitized)
    # A sanitizer takes longer to start than most cases to run: a program's are one test.
    add_test(NAME ${name} COMMAND ${name} --gtest_brief=1)
    set_tests_properties(${name} PROPERTIES TIMEOUT 600)
  else()
    gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST TEST_PREFIX "${name}/" PROPERTIES TIMEOUT 300)
  endif()
endfunction()

# gqa_example(name source... [LIBS library...])
function(gqa_example name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LIBS")
  add_executable(${name} ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE gqa::compiled gqa_warnings ${arg_LIBS})
  set_property(GLOBAL APPEND PROPERTY GQA_EXAMPLES ${name})
endfunction()

# gqa_benchmark(name source... LIBS library...): a Google Benchmark program with its own main or BENCHMARK_MAIN.
# LIBS begins with gqa::compiled or gqa::gqa, whose kernels have the program's own flags.
function(gqa_benchmark name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LIBS")
  add_executable(${name} ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE ${arg_LIBS} gqa_warnings benchmark::benchmark)
endfunction()
