# Other projects find Arbiter where it is installed (HOW: find_package), or take it in as sources (add_subdirectory,
# FetchContent).
include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)
set(consumer ${BUILD}/installed-test-${HOW})
file(REMOVE_RECURSE ${consumer})
if(HOW STREQUAL "find_package")
  set(where -DCMAKE_PREFIX_PATH=${prefix})
else()
  set(where -DARBITER_SOURCE=${SOURCE} -DCUDAToolkit_ROOT=${CUDA_ROOT} -DFETCHCONTENT_FULLY_DISCONNECTED=ON)
endif()
run("configuring a consumer by ${HOW}" ${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${consumer}
  -G ${GENERATOR} -DHOW=${HOW} ${where} -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER=${C_COMPILER}
  -DCMAKE_CXX_COMPILER=${CXX_COMPILER})
if(NOT HOW STREQUAL "find_package")
  # Compiling the library once more takes minutes: that everything is there to do it must do.
  run("planning its programs" ${CMAKE_COMMAND} --build ${consumer} --target with_shared with_static with_cxx -- -n)
  run("planning all" ${CMAKE_COMMAND} --build ${consumer} -- -n)
  if(out MATCHES "bin/arbiter|arbiter_cli|arbiter-nccl")
    message(FATAL_ERROR "a project that takes Arbiter in builds its program, too: ${out}")
  endif()
  return()
endif()
run("building it" ${CMAKE_COMMAND} --build ${consumer})
run("running it" ${CMAKE_CTEST_COMMAND} --test-dir ${consumer} --output-on-failure --no-tests=error)
