# Prints the commands of README.md's examples: cmake -D README= -D BUILD= -P print_commands.cmake. They are those for
# build/demo in the clone; of another build, BUILD is in their place.
file(READ "${README}" text)
if(NOT text MATCHES "<!-- examples -->[\n]+```sh\n([^`]*)```")
  message(FATAL_ERROR "${README} has no sh block after <!-- examples -->")
endif()
set(commands "${CMAKE_MATCH_1}")
cmake_path(GET README PARENT_PATH clone)
file(RELATIVE_PATH build "${clone}" "${BUILD}")
if(build MATCHES "^\\.\\.")
  set(build "${BUILD}")
endif()
string(REPLACE "build/demo" "${build}" commands "${commands}")
string(REPLACE "\n" "\n  " commands "${commands}")
string(STRIP "${commands}" commands)
execute_process(COMMAND "${CMAKE_COMMAND}" -E echo
  "\nAll of these are built now; README.md says what each does, and --help what it can:\n  ${commands}")
