# Tests of what users see of the tree: every header alone, the layers, what must not compile, strangers' projects and
# the README's program. They look at the toolchain, not at results, so the sanitizer presets leave them out.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(python "${Python3_EXECUTABLE}" -B)
set(compile_flags -std=c++20 "-I${PROJECT_SOURCE_DIR}/include"
    "-isystem$<JOIN:$<TARGET_PROPERTY:Eigen3::Eigen,INTERFACE_INCLUDE_DIRECTORIES>, -isystem>")

# Each header compiles on its own, twice over. Building is the test. As beside the compiled library, where a header
# brings least along; what that leaves out, the kernels' text and the workers, are headers of this list themselves.
set(header_sources "")
set(eigen_header_sources "") # these may include Eigen/Core, which is compiled for all of them once
# The others include nothing of Eigen's, which takes longer to read than they do.
set(no_eigen "#ifdef EIGEN_WORLD_VERSION\n#error \"includes Eigen\"\n#endif\n")
foreach(header IN LISTS gqa_headers)
  if(header MATCHES "\\.hpp$" AND (TARGET gqa::files OR NOT header MATCHES "/kv/(file|mapped_prefix)[^/]*$"))
    cmake_path(RELATIVE_PATH header BASE_DIRECTORY "${PROJECT_SOURCE_DIR}/include")
    string(REGEX REPLACE "[/.]" "_" source "${header}")
    set(alone "#include <${header}>\n#include <${header}>\n")
    set(list eigen_header_sources)
    if(NOT header MATCHES "/(convert|kv|layer|plan)/|/(cache|convert|gqa)\\.hpp$")
      set(list header_sources)
      string(APPEND alone "${no_eigen}")
    endif()
    file(CONFIGURE OUTPUT "header_alone/${source}.cpp" CONTENT "${alone}")
    list(APPEND ${list} "${CMAKE_CURRENT_BINARY_DIR}/header_alone/${source}.cpp")
  endif()
endforeach()
add_library(gqa_headers_alone OBJECT ${header_sources})
add_library(gqa_headers_on_eigen OBJECT ${eigen_header_sources})
target_precompile_headers(gqa_headers_on_eigen PRIVATE <Eigen/Core>)
foreach(target gqa_headers_alone gqa_headers_on_eigen)
  target_link_libraries(${target} PRIVATE gqa::compiled gqa_warnings $<TARGET_NAME_IF_EXISTS:gqa::files>)
  target_compile_options(${target} PRIVATE -O0)
endforeach()

add_test(NAME layers/include_gqa COMMAND ${python} layers/check_layers.py "${PROJECT_SOURCE_DIR}/include"
         WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
add_test(NAME layers/planted_violations COMMAND ${python} layers/check_layers_test.py
         WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")

file(GLOB compile_cases CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}/compile" "compile/*.cpp")
# As beside the compiled library: kernels and workers, which see no argument of a call, would only take time. Most cases
# begin with gqa.hpp, which GCC takes precompiled where it finds it so.
set(case_flags ${compile_flags} -DGQA_COMPILED)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(precompiled "${CMAKE_CURRENT_BINARY_DIR}/precompiled/gqa/gqa.hpp.gch")
  file(MAKE_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/precompiled/gqa")
  add_custom_command(OUTPUT "${precompiled}"
                     COMMAND "${CMAKE_CXX_COMPILER}" ${case_flags} -x c++-header -w
                             "${PROJECT_SOURCE_DIR}/include/gqa/gqa.hpp" -o "${precompiled}"
                     DEPENDS ${gqa_headers} COMMAND_EXPAND_LISTS VERBATIM)
  add_custom_target(gqa_precompiled ALL DEPENDS "${precompiled}")
  list(PREPEND case_flags "-I${CMAKE_CURRENT_BINARY_DIR}/precompiled")
endif()
foreach(case IN LISTS compile_cases)
  cmake_path(GET case STEM name)
  add_test(NAME compile/${name} COMMAND ${python} compile/check_case.py compile/${case} "${CMAKE_CXX_COMPILER}"
           ${case_flags} WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
endforeach()

foreach(consumer find_package add_subdirectory fetch_content)
  add_test(NAME consumer/${consumer}
           COMMAND "${CMAKE_COMMAND}" -D "SOURCE_DIR=${PROJECT_SOURCE_DIR}" -D "BUILD_DIR=${PROJECT_BINARY_DIR}"
                   -D "WORK_DIR=${CMAKE_CURRENT_BINARY_DIR}/consumer/${consumer}" -D "CONSUMER=${consumer}"
                   -D "GENERATOR=${CMAKE_GENERATOR}" -D "COMPILER=${CMAKE_CXX_COMPILER}" -P consumer/run.cmake
           WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
endforeach()

add_test(NAME readme/program COMMAND ${python} readme/check_program.py "${PROJECT_SOURCE_DIR}" "${CMAKE_CXX_COMPILER}"
         "${CMAKE_COMMAND}" WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
add_test(NAME readme/tables COMMAND ${python} readme/check_tables.py "${PROJECT_SOURCE_DIR}" "${CMAKE_CXX_COMPILER}"
         ${compile_flags} -Wall -Wextra -Werror -Wno-unused-variable WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")

add_test(NAME flags/errors COMMAND ${python} flags/check_errors.py "${CMAKE_CXX_COMPILER}" ${compile_flags}
         WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
add_test(NAME flags/memory COMMAND ${python} flags/check_memory.py "${CMAKE_CXX_COMPILER}" ${compile_flags}
         WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
add_library(gqa_flags_macros OBJECT flags/macros.cpp)
target_link_libraries(gqa_flags_macros PRIVATE gqa::gqa gqa_warnings)
target_compile_options(gqa_flags_macros PRIVATE -O0)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(gqa_flags_macros PRIVATE -Wsign-conversion)
endif()

# Parts of a program compiled with different flags, and one that leaves the kernels to the library: the linker
# keeps one copy of each inline function for all, the first it sees, so that each order runs other code.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND NOT CMAKE_CROSSCOMPILING)
  set(parts plain native unoptimised compiled ours_first)
  foreach(part IN LISTS parts)
    add_library(gqa_flags_${part} OBJECT flags/part.cpp)
    target_include_directories(gqa_flags_${part} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
    target_link_libraries(gqa_flags_${part} PRIVATE gqa::gqa gqa_warnings)
    set(objects_${part} $<TARGET_OBJECTS:gqa_flags_${part}>)
    target_compile_definitions(gqa_flags_${part} PRIVATE FUNCTION=run_${part})
  endforeach()
  target_compile_options(gqa_flags_plain PRIVATE -O2)
  target_compile_options(gqa_flags_native PRIVATE -O3 -march=native)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # Clang's <cpuid.h> knows one dialect
    target_compile_options(gqa_flags_native PRIVATE -masm=intel)
  endif()
  target_compile_options(gqa_flags_unoptimised PRIVATE -O0)
  target_compile_options(gqa_flags_ours_first PRIVATE -O3 -march=native)
  target_compile_definitions(gqa_flags_ours_first PRIVATE OURS_FIRST)
  # The library as objects: of an archive the linker would take none after a part that has the kernels.
  target_link_libraries(gqa_flags_compiled PRIVATE gqa::compiled)
  target_link_libraries(gqa_flags_ours_first PRIVATE gqa::compiled)
  list(APPEND objects_compiled $<TARGET_OBJECTS:gqa_compiled>)
  find_package(Threads REQUIRED)
  set(programs "")
  foreach(first IN LISTS parts)
    set(name gqa_flags_${first}_first)
    add_executable(${name} flags/main.cpp)
    target_include_directories(${name} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
    foreach(part IN LISTS parts)
      target_sources(${name} PRIVATE ${objects_${part}})
    endforeach()
    target_link_libraries(${name} PRIVATE gqa_warnings Threads::Threads)
    list(APPEND programs $<TARGET_FILE:${name}>)
    list(POP_FRONT parts front)
    list(APPEND parts ${front})
  endforeach()
  add_test(NAME flags/link_orders COMMAND ${python} flags/check_flags.py ${programs}
           WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
endif()
