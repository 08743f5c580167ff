# gqa::files: the headers with what saves and restores caches, where xxHash is installed (Debian: libxxhash-dev).
find_path(GQA_XXHASH_INCLUDE_DIR xxhash.h)
find_library(GQA_XXHASH_LIBRARY xxhash)
mark_as_advanced(GQA_XXHASH_INCLUDE_DIR GQA_XXHASH_LIBRARY)
if(GQA_XXHASH_INCLUDE_DIR AND GQA_XXHASH_LIBRARY AND NOT TARGET gqa::files)
  add_library(gqa::files INTERFACE IMPORTED GLOBAL)
  target_include_directories(gqa::files INTERFACE "${GQA_XXHASH_INCLUDE_DIR}")
  target_link_libraries(gqa::files INTERFACE gqa::gqa "${GQA_XXHASH_LIBRARY}")
endif()
