# The targets gqa::gqa (the headers), gqa::compiled (the kernels compiled once) and gqa::files (where xxHash is), and
# their installation.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)
include("${CMAKE_CURRENT_LIST_DIR}/GqaEigen.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/GqaBuildType.cmake")

# Other people's builds need not look for new files of ours at every build.
set(gqa_look_again "")
if(PROJECT_IS_TOP_LEVEL)
  set(gqa_look_again CONFIGURE_DEPENDS)
endif()
file(GLOB_RECURSE gqa_headers ${gqa_look_again} "${PROJECT_SOURCE_DIR}/include/gqa/*.*")
file(GLOB gqa_compiled_sources ${gqa_look_again} "${PROJECT_SOURCE_DIR}/cmake/compiled/*.cpp")

add_library(gqa INTERFACE)
add_library(gqa::gqa ALIAS gqa)
target_sources(gqa INTERFACE FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${gqa_headers})
target_compile_features(gqa INTERFACE cxx_std_20)
target_link_libraries(gqa INTERFACE Eigen3::Eigen)
# Found anew where the package is used, for it is nothing but a way to name xxHash.
include("${CMAKE_CURRENT_LIST_DIR}/GqaFiles.cmake")

# The same headers with what takes longest of them compiled already, split so that cores share the work. Who links it
# sees GQA_COMPILED; its own sources do not.
add_library(gqa_compiled STATIC ${gqa_compiled_sources})
add_library(gqa::compiled ALIAS gqa_compiled)
target_link_libraries(gqa_compiled PUBLIC gqa::gqa)
target_compile_definitions(gqa_compiled INTERFACE GQA_COMPILED)
set_target_properties(gqa_compiled PROPERTIES OUTPUT_NAME gqa EXPORT_NAME compiled POSITION_INDEPENDENT_CODE ON)

# A header-only package serves every architecture, hence share/ and ARCH_INDEPENDENT; one with a library does not.
if(GQA_BUILD_COMPILED)
  set(gqa_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/gqa")
  set(gqa_package_arch "")
  install(TARGETS gqa_compiled EXPORT gqaTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
else()
  set(gqa_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/gqa")
  set(gqa_package_arch ARCH_INDEPENDENT)
  set_target_properties(gqa_compiled PROPERTIES EXCLUDE_FROM_ALL TRUE)
endif()
install(TARGETS gqa EXPORT gqaTargets FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT gqaTargets NAMESPACE gqa:: DESTINATION "${gqa_package_dir}")
configure_package_config_file(cmake/gqaConfig.cmake.in "${PROJECT_BINARY_DIR}/gqaConfig.cmake"
                              INSTALL_DESTINATION "${gqa_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/gqaConfigVersion.cmake" COMPATIBILITY SameMinorVersion
                                 ${gqa_package_arch})
install(FILES "${PROJECT_BINARY_DIR}/gqaConfig.cmake" "${PROJECT_BINARY_DIR}/gqaConfigVersion.cmake"
              cmake/GqaEigen.cmake cmake/GqaBuildType.cmake cmake/GqaFiles.cmake DESTINATION "${gqa_package_dir}")
# All headers in one file, made when it is installed.
install(CODE "execute_process(COMMAND \"${CMAKE_COMMAND}\" -D \"INCLUDE_DIR=${PROJECT_SOURCE_DIR}/include\"
  -D \"VERSION=${PROJECT_VERSION}\" -D \"OUTPUT=${PROJECT_BINARY_DIR}/gqa_single.hpp\"
  -P \"${PROJECT_SOURCE_DIR}/cmake/GqaSingleHeader.cmake\" COMMAND_ERROR_IS_FATAL ANY)")
install(FILES "${PROJECT_BINARY_DIR}/gqa_single.hpp" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
