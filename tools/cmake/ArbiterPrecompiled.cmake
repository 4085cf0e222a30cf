# Headers of the standard library, fmt and GoogleTest are most of what a small source costs. The builds that tools/check
# makes read them once for all tests and, with Clang (presets `fuzz` and `threads`), once for each library. With GCC
# libraries read them as ever: GCC 12 takes the standard library's code for ours when it comes out of a precompiled
# header, and its optimiser warns about what cannot happen in it (tests are not optimised, but for sanitizers). Off while
# working: a source compiles then that forgot an #include, and ccache finds less. The lint of tools/check finds it.
option(ARBITER_PRECOMPILED "Precompile the headers of the standard library, fmt and GoogleTest" OFF)

# arbiter_precompile(<target> [<header>...]): for the C++ sources of the target.
function(arbiter_precompile target)
  if(ARBITER_PRECOMPILED)
    set(headers <algorithm> <array> <atomic> <chrono> <cstdint> <cstring> <filesystem> <fstream> <functional> <map>
      <memory> <mutex> <optional> <set> <span> <sstream> <string> <string_view> <thread> <utility> <variant> <vector>
      ${ARGN})
    list(TRANSFORM headers REPLACE ".+" "$<$<COMPILE_LANGUAGE:CXX>:\\0>")
    target_precompile_headers(${target} PRIVATE ${headers})
  endif()
endfunction()

# arbiter_precompile_library(<target> [<header>...]): the same for a library.
function(arbiter_precompile_library target)
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    arbiter_precompile(${target} ${ARGN})
  endif()
endfunction()

# arbiter_compile_together(<target>): then the library's sources are also compiled eight at a time, for half the cost. Where
# two cannot stand in one (a name that both keep to themselves), give one another name or SKIP_UNITY_BUILD_INCLUSION.
function(arbiter_compile_together target)
  if(ARBITER_PRECOMPILED AND CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
  endif()
endfunction()

# arbiter_precompile_test(<target>): all tests share what one program without any code has precompiled.
function(arbiter_precompile_test target)
  if(NOT ARBITER_PRECOMPILED OR (ARBITER_SANITIZE AND NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang"))
    return()
  endif()
  if(NOT TARGET arbiter_precompiled_tests)
    file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/precompiled_tests.cpp CONTENT "int main() { return 0; }\n")
    add_executable(arbiter_precompiled_tests EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/precompiled_tests.cpp)
    target_link_libraries(arbiter_precompiled_tests PRIVATE GTest::gtest GTest::gtest_main arbiter_test_options)
    arbiter_precompile(arbiter_precompiled_tests <gtest/gtest.h>)
  endif()
  target_precompile_headers(${target} REUSE_FROM arbiter_precompiled_tests)
endfunction()
