# Makes one header of all: cmake -D INCLUDE_DIR= -D VERSION= -D OUTPUT= -P GqaSingleHeader.cmake
# Headers with #pragma once come once, texts (.inl) each time they are included. Files are kept as strings and never
# become lists, which would swallow their semicolons and brackets.
cmake_minimum_required(VERSION 3.25)

# Appends the file to OUTPUT with what it includes of ours in its place.
function(expand file)
  get_property(seen GLOBAL PROPERTY "GQA_SEEN_${file}")
  if(seen)
    return()
  endif()
  file(READ "${INCLUDE_DIR}/${file}" text)
  string(FIND "${text}" "#pragma once\n" once)
  if(NOT once EQUAL -1)
    set_property(GLOBAL PROPERTY "GQA_SEEN_${file}" TRUE)
  endif()
  string(REPLACE "#pragma once\n" "" text "${text}")
  string(REPLACE "// SPDX-License-Identifier: Apache-2.0\n" "" text "${text}")
  # The text that `#include GQA_SIMD_TEXT` names from here on.
  if(text MATCHES "#define GQA_SIMD_TEXT \"([^\"]+)\"")
    set_property(GLOBAL PROPERTY GQA_SIMD_TEXT "${CMAKE_MATCH_1}")
  endif()
  while(text MATCHES "(^|\n)#include (\"(gqa/[^\"\n]+)\"|(GQA_SIMD_TEXT))[^\n]*\n")
    set(directive "${CMAKE_MATCH_0}")
    set(included "${CMAKE_MATCH_3}")
    if(CMAKE_MATCH_4)
      get_property(included GLOBAL PROPERTY GQA_SIMD_TEXT)
    endif()
    string(FIND "${text}" "${directive}" begin)
    string(SUBSTRING "${text}" 0 ${begin} before)
    file(APPEND "${OUTPUT}" "${before}\n")
    expand("${included}")
    string(LENGTH "${directive}" length)
    math(EXPR end "${begin} + ${length} - 1") # keeps the line's end for the next directive
    string(SUBSTRING "${text}" ${end} -1 text)
  endwhile()
  file(APPEND "${OUTPUT}" "${text}")
endfunction()

file(WRITE "${OUTPUT}" "// SPDX-License-Identifier: Apache-2.0\n"
     "// Made from gqa ${VERSION}: all its headers in one. Include this file or those, not both.\n#pragma once\n")
expand("gqa/gqa.hpp")
