# What programs find that use an installed Arbiter: headers, library, CMake package, pkg-config; and the Debian package.
# `cmake --install <build> --component library` installs just that.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS arbiter_shared EXPORT arbiter LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library)
install(FILES ${CMAKE_BINARY_DIR}/lib/libarbiter.a DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library)
install(FILES ${PROJECT_SOURCE_DIR}/runtime/include/arbiter.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT library)
# For users is what lies in <layer>/include/arbiter/ itself; the folders below it are between the layers.
file(GLOB arbiter_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/*/include/arbiter/*.hpp)
install(FILES ${arbiter_headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/arbiter COMPONENT library)
# Debian's name for the notices of what is inside.
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT library)
install(FILES ${PROJECT_SOURCE_DIR}/COPYRIGHT DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright COMPONENT library)

set(arbiter_package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/arbiter)
install(EXPORT arbiter NAMESPACE arbiter:: FILE arbiterTargets.cmake DESTINATION ${arbiter_package_folder}
  COMPONENT library)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/arbiterConfig.cmake.in
  ${PROJECT_BINARY_DIR}/package/arbiterConfig.cmake INSTALL_DESTINATION ${arbiter_package_folder}
  PATH_VARS CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_INCLUDEDIR)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/package/arbiterConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/package/arbiterConfig.cmake ${PROJECT_BINARY_DIR}/package/arbiterConfigVersion.cmake
  DESTINATION ${arbiter_package_folder} COMPONENT library)

# Relative to itself, so that an installed tree may be moved and --prefix may say another place than the configuration.
file(RELATIVE_PATH arbiter_prefix_from_pc /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
list(TRANSFORM arbiter_static_needs REPLACE "^([^/].*)$" "-l\\1" OUTPUT_VARIABLE arbiter_pc_needs)
list(JOIN arbiter_pc_needs " " arbiter_pc_needs)
string(REGEX REPLACE "/$" "" arbiter_prefix_from_pc "${arbiter_prefix_from_pc}")
configure_file(${CMAKE_CURRENT_LIST_DIR}/arbiter.pc.in ${PROJECT_BINARY_DIR}/package/arbiter.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/package/arbiter.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT library)

# Everything that `cmake --install` wants to find: what tools/quickstart builds.
add_custom_target(arbiter_distribution DEPENDS arbiter_shared arbiter_static)
if(ARBITER_TOOLS)
  add_dependencies(arbiter_distribution arbiter arbiter_generated arbiter_nccl arbiter_nccl_tuner)
endif()

if(PROJECT_IS_TOP_LEVEL)
  set(CPACK_GENERATOR DEB)
  set(CPACK_PACKAGE_NAME arbiter)
  set(CPACK_PACKAGE_VENDOR "The Arbiter authors")
  set(CPACK_PACKAGE_CONTACT "The Arbiter authors <arbiter@localhost>")
  set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Allreduce between GPUs by the fastest proven kernel: tuner and library")
  set(CPACK_PACKAGE_FILE_NAME arbiter_${PROJECT_VERSION}_${CMAKE_SYSTEM_PROCESSOR})
  set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
  set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
  set(CPACK_STRIP_FILES ON)
  set(CPACK_DEB_COMPONENT_INSTALL OFF)
  set(CPACK_DEBIAN_PACKAGE_SECTION libs)
  set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
  find_program(ARBITER_SHLIBDEPS dpkg-shlibdeps)
  if(ARBITER_SHLIBDEPS)
    set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
    # Opened by name at run time, never linked: NCCL's name is what our own stand-in for it has.
    set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${CMAKE_BINARY_DIR}/lib)
  else()
    set(CPACK_DEBIAN_PACKAGE_DEPENDS "libc6 (>= 2.36)")
  endif()
  set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "g++")
  set(CPACK_DEBIAN_PACKAGE_SUGGESTS "libnccl2, cuda-nvrtc-13-0")
  include(CPack)
endif()
