# Compile options that every target of the project shares.
add_library(arbiter_options INTERFACE)
target_compile_options(arbiter_options INTERFACE
  -Wall -Wextra -Wconversion -Wshadow -ffunction-sections -fdata-sections
  $<$<BOOL:${ARBITER_WERROR}>:-Werror>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 reports overlapping copies inside std::string that cannot happen (GCC bug 105651).
  target_compile_options(arbiter_options INTERFACE -Wno-restrict)
endif()
target_link_options(arbiter_options INTERFACE -Wl,--gc-sections)
target_compile_definitions(arbiter_options INTERFACE ARBITER_VERSION="${PROJECT_VERSION}")

# One file that starts on any x86-64 Linux with glibc >= 2.36: the C++ runtime travels inside it.
if(ARBITER_PORTABLE)
  target_link_options(arbiter_options INTERFACE -static-libstdc++ -static-libgcc)
endif()

# ARBITER_SANITIZE: address, thread, undefined, or address,undefined.
if(ARBITER_SANITIZE)
  set(sanitizers address thread undefined "address,undefined")
  if(NOT ARBITER_SANITIZE IN_LIST sanitizers)
    message(FATAL_ERROR "ARBITER_SANITIZE is '${ARBITER_SANITIZE}'; expected one of: ${sanitizers}")
  endif()
  target_compile_options(arbiter_options INTERFACE -fsanitize=${ARBITER_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(arbiter_options INTERFACE -fsanitize=${ARBITER_SANITIZE})
  if(ARBITER_SANITIZE MATCHES "undefined")
    target_compile_options(arbiter_options INTERFACE -fno-sanitize-recover=undefined)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC 12 reports uninitialised values in the standard library's own code when it instruments it.
    target_compile_options(arbiter_options INTERFACE -Wno-maybe-uninitialized)
  endif()
endif()

# The fuzzers' libraries: instrumented to tell which branches an input takes, and checked by AddressSanitizer and
# UndefinedBehaviorSanitizer. LLVM has no type information, which two of its checks need.
if(ARBITER_FUZZ)
  target_compile_options(arbiter_options INTERFACE -fsanitize=fuzzer-no-link,address,undefined
    -fno-sanitize=vptr,function -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_link_options(arbiter_options INTERFACE -fsanitize=address,undefined)
endif()

# Rebuilds after a clean or in a second build folder are nearly free with ccache.
find_program(ARBITER_CCACHE ccache)
if(ARBITER_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER ${ARBITER_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${ARBITER_CCACHE})
  if(ARBITER_PRECOMPILED)  # what it asks for before it remembers what was compiled with precompiled headers
    list(PREPEND CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros)
  endif()
endif()

# arbiter_add_library(<layer> LINKS <targets...>): a static library from <layer>/src/*.cpp and its sub-folders.
function(arbiter_add_library layer)
  cmake_parse_arguments(ARG "" "" "LINKS;PRIVATE_LINKS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/*.cpp)
  add_library(arbiter_${layer} STATIC ${sources})
  target_include_directories(arbiter_${layer} PUBLIC include PRIVATE src)
  target_link_libraries(arbiter_${layer} PUBLIC ${ARG_LINKS} PRIVATE arbiter_options ${ARG_PRIVATE_LINKS})
  arbiter_precompile_library(arbiter_${layer} <fmt/format.h>)
endfunction()
