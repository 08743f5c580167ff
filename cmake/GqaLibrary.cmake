# The one target, gqa::gqa, and its installation.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)
include("${CMAKE_CURRENT_LIST_DIR}/GqaEigen.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/GqaBuildType.cmake")

# Other people's builds need not look for new headers of ours at every build.
if(PROJECT_IS_TOP_LEVEL)
  file(GLOB_RECURSE gqa_headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/gqa/*.*")
else()
  file(GLOB_RECURSE gqa_headers "${PROJECT_SOURCE_DIR}/include/gqa/*.*")
endif()

add_library(gqa INTERFACE)
add_library(gqa::gqa ALIAS gqa)
target_sources(gqa INTERFACE FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${gqa_headers})
target_compile_features(gqa INTERFACE cxx_std_20)
target_link_libraries(gqa INTERFACE Eigen3::Eigen)

# A header-only package serves every architecture, hence share/ and ARCH_INDEPENDENT.
set(gqa_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/gqa")
install(TARGETS gqa EXPORT gqaTargets FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT gqaTargets NAMESPACE gqa:: DESTINATION "${gqa_package_dir}")
configure_package_config_file(cmake/gqaConfig.cmake.in "${PROJECT_BINARY_DIR}/gqaConfig.cmake"
                              INSTALL_DESTINATION "${gqa_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/gqaConfigVersion.cmake" COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/gqaConfig.cmake" "${PROJECT_BINARY_DIR}/gqaConfigVersion.cmake"
              cmake/GqaEigen.cmake cmake/GqaBuildType.cmake DESTINATION "${gqa_package_dir}")
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
