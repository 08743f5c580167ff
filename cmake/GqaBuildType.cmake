# Says once that a build without a type is not optimised. With GCC the kernels are all the same (simd/kernels.hpp);
# what calls them is not, and with Clang nothing is.
get_property(gqa_multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
get_property(gqa_said GLOBAL PROPERTY GQA_BUILD_TYPE_SAID)
if(NOT CMAKE_BUILD_TYPE AND NOT gqa_multi_config AND NOT CMAKE_CXX_FLAGS MATCHES "-O" AND NOT gqa_said)
  set_property(GLOBAL PROPERTY GQA_BUILD_TYPE_SAID TRUE)
  set(gqa_mode STATUS)  # other people's builds are theirs
  if(CMAKE_CURRENT_LIST_DIR STREQUAL "${CMAKE_SOURCE_DIR}/cmake")
    set(gqa_mode WARNING)
  endif()
  message(${gqa_mode} "gqa: CMAKE_BUILD_TYPE is empty and CMAKE_CXX_FLAGS has no -O, so this build is slow; "
                      "configure with -DCMAKE_BUILD_TYPE=Release")
endif()
