# The examples, as somebody else's project.
include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)
run("configuring the examples" ${CMAKE_COMMAND} -S ${SOURCE}/examples -B ${work}/examples
  -DCMAKE_PREFIX_PATH=${prefix} -DCMAKE_C_COMPILER=${C_COMPILER} -DCMAKE_CXX_COMPILER=${CXX_COMPILER})
run("building the examples" ${CMAKE_COMMAND} --build ${work}/examples)
run("running the examples" ${CMAKE_CTEST_COMMAND} --test-dir ${work}/examples --output-on-failure --no-tests=error)
message(STATUS "${out}")
