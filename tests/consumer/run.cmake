# Plays a stranger: cmake -D SOURCE_DIR= -D BUILD_DIR= -D WORK_DIR= -D CONSUMER= -D GENERATOR= -D COMPILER= -P run.cmake
# configures, builds and runs the project in the folder CONSUMER against the tree under test.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "failed: ${command}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE "${WORK_DIR}")
set(options "")
if(CONSUMER STREQUAL "find_package")
  run("${CMAKE_COMMAND}" --install "${BUILD_DIR}" --prefix "${WORK_DIR}/prefix")
  # Every header arrives, and nothing that is not one.
  file(GLOB_RECURSE here RELATIVE "${SOURCE_DIR}/include" "${SOURCE_DIR}/include/*")
  file(GLOB_RECURSE there RELATIVE "${WORK_DIR}/prefix/include" "${WORK_DIR}/prefix/include/*")
  if(NOT here STREQUAL there)
    message(FATAL_ERROR "installed headers differ\nhere:  ${here}\nthere: ${there}")
  endif()
  set(options "-DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix")
elseif(CONSUMER STREQUAL "add_subdirectory")
  set(options "-DGQA_SOURCE_DIR=${SOURCE_DIR}")
elseif(CONSUMER STREQUAL "fetch_content")
  set(options "-DFETCHCONTENT_SOURCE_DIR_GQA=${SOURCE_DIR}")
endif()

run("${CMAKE_COMMAND}" -S "${SOURCE_DIR}/tests/consumer/${CONSUMER}" -B "${WORK_DIR}/build" -G "${GENERATOR}"
    "-DCMAKE_CXX_COMPILER=${COMPILER}" -DCMAKE_CXX_FLAGS=-O2 ${options})
# A stranger's build holds none of our tests, examples and benchmarks.
run("${CMAKE_COMMAND}" --build "${WORK_DIR}/build" --target help)
if(output MATCHES "gqa_test|gqa_warnings|gqa_bench|demo")
  message(FATAL_ERROR "our own targets leak into the consumer's build:\n${output}")
endif()
run("${CMAKE_COMMAND}" --build "${WORK_DIR}/build")
run("${WORK_DIR}/build/stranger")
message("${output}")
