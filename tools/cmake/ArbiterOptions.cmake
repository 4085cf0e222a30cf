# Compile options that every target of the project shares.
add_library(arbiter_options INTERFACE)
target_compile_options(arbiter_options INTERFACE
  -Wall -Wextra -Wconversion -Wshadow -ffunction-sections -fdata-sections
  $<$<BOOL:${ARBITER_WERROR}>:-Werror>)
target_link_options(arbiter_options INTERFACE -Wl,--gc-sections)
target_compile_definitions(arbiter_options INTERFACE ARBITER_VERSION="${PROJECT_VERSION}")

# arbiter_add_library(<layer> LINKS <targets...>): a static library from <layer>/src/*.cpp and its sub-folders.
function(arbiter_add_library layer)
  cmake_parse_arguments(ARG "" "" "LINKS;PRIVATE_LINKS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/*.cpp)
  add_library(arbiter_${layer} STATIC ${sources})
  target_include_directories(arbiter_${layer} PUBLIC include PRIVATE src)
  target_link_libraries(arbiter_${layer} PUBLIC ${ARG_LINKS} PRIVATE arbiter_options ${ARG_PRIVATE_LINKS})
endfunction()
