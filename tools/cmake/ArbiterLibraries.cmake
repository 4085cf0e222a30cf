# What other projects link, by the names that find_package(arbiter) gives, too:
#   arbiter::arbiter   C, libarbiter.so
#   arbiter::static    C, libarbiter.a
#   arbiter::cxx       C++, libarbiter.a and the headers in arbiter/
# Here, inside the build, the last two are the layers themselves.
add_library(arbiter_in_tree_c STATIC $<TARGET_OBJECTS:arbiter_c> $<TARGET_OBJECTS:arbiter_c_tuner>)
set_target_properties(arbiter_in_tree_c PROPERTIES LINKER_LANGUAGE CXX)
target_include_directories(arbiter_in_tree_c PUBLIC ${PROJECT_SOURCE_DIR}/runtime/include)
target_link_libraries(arbiter_in_tree_c PRIVATE arbiter_tuner arbiter_runtime arbiter::llvm)
add_library(arbiter::static ALIAS arbiter_in_tree_c)

add_library(arbiter_in_tree_cxx INTERFACE)
target_compile_features(arbiter_in_tree_cxx INTERFACE cxx_std_20)
target_link_libraries(arbiter_in_tree_cxx INTERFACE arbiter_in_tree_c arbiter_tuner)
add_library(arbiter::cxx ALIAS arbiter_in_tree_cxx)

# libarbiter.a: one object with everything that is not of the system. What it brings along of other projects (SQLite,
# LLVM, zlib, zstd, the CUDA runtime) keeps its names to itself, so that a program may link its own copies.
set(merged ${CMAKE_BINARY_DIR}/lib/libarbiter.a)
set(merged_from $<TARGET_FILE:arbiter_tuner> $<TARGET_FILE:arbiter_runtime> $<TARGET_FILE:arbiter_db>
  $<TARGET_FILE:arbiter_generator> $<TARGET_FILE:arbiter_in_tree_c>)
set(merged_outside ${arbiter_outside_libraries})
set(arbiter_static_needs stdc++ m dl rt pthread)  # what a program links beside it
foreach(library IN LISTS arbiter_outside_libraries)
  if(NOT library MATCHES "\\.a$")  # there is no static one on this system
    list(REMOVE_ITEM merged_outside ${library})
    list(APPEND arbiter_static_needs ${library})
  endif()
endforeach()
add_custom_command(OUTPUT ${merged}
  COMMAND ${CMAKE_COMMAND} -D OUTPUT=${merged} "-D OURS=${merged_from}" "-D OUTSIDE=${merged_outside}"
    -D LINKER=${CMAKE_LINKER} -D AR=${CMAKE_AR} -D NM=${CMAKE_NM} -D OBJCOPY=${CMAKE_OBJCOPY}
    -P ${PROJECT_SOURCE_DIR}/tools/cmake/merge_archives.cmake
  DEPENDS arbiter_tuner arbiter_runtime arbiter_db arbiter_generator arbiter_in_tree_c
    ${PROJECT_SOURCE_DIR}/tools/cmake/merge_archives.cmake
  COMMENT "Merging libarbiter.a" VERBATIM)
if(PROJECT_IS_TOP_LEVEL)
  add_custom_target(arbiter_static ALL DEPENDS ${merged})
else()
  add_custom_target(arbiter_static DEPENDS ${merged})
endif()
