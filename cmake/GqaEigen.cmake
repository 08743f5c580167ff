# Eigen3::Eigen, 3.4 or newer. A version in find_package() would refuse Eigen 5, whose package
# declares itself compatible with its own major version only.
if(NOT TARGET Eigen3::Eigen)
  find_package(Eigen3 REQUIRED NO_MODULE)
  if(Eigen3_VERSION VERSION_LESS 3.4)
    message(FATAL_ERROR "gqa needs Eigen 3.4 or newer; found ${Eigen3_VERSION} in ${Eigen3_DIR}")
  endif()
endif()
