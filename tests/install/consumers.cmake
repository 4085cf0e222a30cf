# Other projects find Arbiter where it is installed (HOW: find_package), or take it in as sources (add_subdirectory,
# FetchContent).
include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)
if(HOW STREQUAL "find_package")
  set(consumer ${BUILD}/installed-test-${HOW})
  set(where -DCMAKE_PREFIX_PATH=${prefix})
else()
  # With the flags of the build itself and beside it, so that the compiler cache has its objects, also where paths in it
  # are relative (ccache's base_dir).
  set(consumer ${BUILD}-test-${HOW})
  set(where -DARBITER_SOURCE=${SOURCE} -DCUDAToolkit_ROOT=${CUDA_ROOT} -DFETCHCONTENT_FULLY_DISCONNECTED=ON
    -DARBITER_WERROR=${WERROR})
endif()
file(REMOVE_RECURSE ${consumer})
run("configuring a consumer by ${HOW}" ${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${consumer}
  -G ${GENERATOR} -DHOW=${HOW} ${where} -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER=${C_COMPILER}
  -DCMAKE_CXX_COMPILER=${CXX_COMPILER})
if(NOT HOW STREQUAL "find_package")
  run("planning its programs" ${CMAKE_COMMAND} --build ${consumer} --target with_shared with_static with_cxx -- -n)
  run("planning all" ${CMAKE_COMMAND} --build ${consumer} -- -n)
  if(out MATCHES "bin/arbiter|arbiter_cli|arbiter-nccl")
    message(FATAL_ERROR "a project that takes Arbiter in builds its program, too: ${out}")
  endif()
  # Seconds with a compiler cache, minutes without one. One of the two ways of taking it in is enough.
  find_program(CCACHE ccache)
  if(CCACHE AND HOW STREQUAL "add_subdirectory")
    run("building a program" ${CMAKE_COMMAND} --build ${consumer} --target with_shared)
    run("running it" ${CMAKE_CTEST_COMMAND} --test-dir ${consumer} -R "^with_shared$" --output-on-failure
      --no-tests=error)
  endif()
  file(REMOVE_RECURSE ${consumer})
  return()
endif()
run("building it" ${CMAKE_COMMAND} --build ${consumer})
run("running it" ${CMAKE_CTEST_COMMAND} --test-dir ${consumer} --output-on-failure --no-tests=error)
