# Headers of the standard library, fmt and GoogleTest are most of what a small source costs. The builds that tools/check
# makes beside its main one (presets `fuzz` and `threads`) read them once for each library and once for all tests. Only
# with Clang: GCC 12 takes the standard library's code for ours then, and warns about what cannot happen in it. Off
# while working: a source compiles then that forgot an #include, and ccache finds less.
option(ARBITER_PRECOMPILED "Precompile the headers of the standard library, fmt and GoogleTest; needs clang" OFF)

# arbiter_precompile(<target> [<header>...]): for the C++ sources of the target.
function(arbiter_precompile target)
  if(ARBITER_PRECOMPILED AND CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    set(headers <algorithm> <array> <atomic> <chrono> <cstdint> <cstring> <filesystem> <fstream> <functional> <map>
      <memory> <mutex> <optional> <set> <span> <sstream> <string> <string_view> <thread> <utility> <variant> <vector>
      ${ARGN})
    list(TRANSFORM headers REPLACE ".+" "$<$<COMPILE_LANGUAGE:CXX>:\\0>")
    target_precompile_headers(${target} PRIVATE ${headers})
  endif()
endfunction()

# arbiter_precompile_test(<target>): all tests share what one program without any code has precompiled.
function(arbiter_precompile_test target)
  if(NOT ARBITER_PRECOMPILED OR NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    return()
  endif()
  if(NOT TARGET arbiter_precompiled_tests)
    file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/precompiled_tests.cpp CONTENT "int main() { return 0; }\n")
    add_executable(arbiter_precompiled_tests EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/precompiled_tests.cpp)
    target_link_libraries(arbiter_precompiled_tests PRIVATE GTest::gtest GTest::gtest_main arbiter_options)
    arbiter_precompile(arbiter_precompiled_tests <gtest/gtest.h>)
  endif()
  target_precompile_headers(${target} REUSE_FROM arbiter_precompiled_tests)
endfunction()
