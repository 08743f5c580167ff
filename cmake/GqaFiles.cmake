# gqa::files: the headers with what saves and restores caches, where xxHash is installed (Debian: libxxhash-dev).
find_path(GQA_XXHASH_INCLUDE_DIR xxhash.h)
find_library(GQA_XXHASH_LIBRARY xxhash)
mark_as_advanced(GQA_XXHASH_INCLUDE_DIR GQA_XXHASH_LIBRARY)
if(GQA_XXHASH_INCLUDE_DIR AND GQA_XXHASH_LIBRARY AND NOT TARGET gqa::files)
  add_library(gqa::files INTERFACE IMPORTED GLOBAL)
  target_include_directories(gqa::files INTERFACE "${GQA_XXHASH_INCLUDE_DIR}")
  target_link_libraries(gqa::files INTERFACE gqa::gqa "${GQA_XXHASH_LIBRARY}")
  # Where it was built so, it chooses an instruction set at run time, and is four times as fast.
  include(CheckCXXSourceCompiles)
  include(CMakePushCheckState)
  cmake_push_check_state(RESET)
  set(CMAKE_REQUIRED_INCLUDES "${GQA_XXHASH_INCLUDE_DIR}")
  set(CMAKE_REQUIRED_LIBRARIES "${GQA_XXHASH_LIBRARY}")
  set(CMAKE_REQUIRED_QUIET ON)
  check_cxx_source_compiles([[
    #include <xxhash.h>
    #include <xxh_x86dispatch.h>
    int main(int, char** argv) { return static_cast<int>(XXH3_64bits_dispatch(argv, 1)); }
  ]] GQA_XXHASH_HAS_DISPATCH)
  cmake_pop_check_state()
  if(GQA_XXHASH_HAS_DISPATCH)
    target_compile_definitions(gqa::files INTERFACE GQA_XXHASH_DISPATCH)
  endif()
endif()
