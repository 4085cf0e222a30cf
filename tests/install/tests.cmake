# What is installed, as other people's projects meet it.
set(install_tests_arguments -D BUILD=${CMAKE_BINARY_DIR} -D SOURCE=${CMAKE_SOURCE_DIR}
  -D C_COMPILER=${CMAKE_C_COMPILER} -D CXX_COMPILER=${CMAKE_CXX_COMPILER} -D CUDA_ROOT=${CudaRuntime_ROOT}
  -D CPACK=${CMAKE_CPACK_COMMAND} -D "GENERATOR=${CMAKE_GENERATOR}"
  -D BUILD_TYPE=${CMAKE_BUILD_TYPE} -D WERROR=${ARBITER_WERROR} -D "INSIDE=${arbiter_inside}")
if(CMAKE_GENERATOR STREQUAL "Ninja")
  list(APPEND install_tests_arguments -D NINJA=${CMAKE_MAKE_PROGRAM})
endif()

# arbiter_add_install_test(<name> <script> [<argument...>])
function(arbiter_add_install_test name script)
  add_test(NAME install/${name} COMMAND ${CMAKE_COMMAND} ${install_tests_arguments} ${ARGN}
    -P ${CMAKE_CURRENT_SOURCE_DIR}/install/${script}.cmake)
  set_tests_properties(install/${name} PROPERTIES TIMEOUT 600 SKIP_REGULAR_EXPRESSION "SKIPPED: "
    ENVIRONMENT ARBITER_CACHE_DIR=${ARBITER_TEST_KERNELS})
  if(ARBITER_SANITIZE)  # a program without the sanitizer cannot load a library with it
    set_tests_properties(install/${name} PROPERTIES DISABLED TRUE)
  endif()
endfunction()

arbiter_add_install_test(tree tree)
set_tests_properties(install/tree PROPERTIES FIXTURES_SETUP installed_tree)
foreach(name headers examples c_program)
  arbiter_add_install_test(${name} ${name})
  set_tests_properties(install/${name} PROPERTIES FIXTURES_REQUIRED installed_tree)
endforeach()
arbiter_add_install_test(find_package consumers -D HOW=find_package)
set_tests_properties(install/find_package PROPERTIES FIXTURES_REQUIRED installed_tree)
arbiter_add_install_test(add_subdirectory consumers -D HOW=add_subdirectory)
arbiter_add_install_test(FetchContent consumers -D HOW=FetchContent)
arbiter_add_install_test(debian debian)
