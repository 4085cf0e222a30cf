# arbiter_reference: the reference of the headers for users, by Doxygen, in <build>/reference. A warning is an error.
find_program(ARBITER_DOXYGEN doxygen)
if(ARBITER_DOXYGEN)
  file(GLOB arbiter_reference_input CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/*/include/arbiter/*.hpp
    ${PROJECT_SOURCE_DIR}/runtime/include/arbiter.h)
  file(GLOB arbiter_reference_strip ${PROJECT_SOURCE_DIR}/*/include)
  foreach(list arbiter_reference_input arbiter_reference_strip)
    list(TRANSFORM ${list} REPLACE "^(.+)$" "\"\\1\"")
    list(JOIN ${list} " " ${list})
  endforeach()
  configure_file(${PROJECT_SOURCE_DIR}/docs/Doxyfile.in ${PROJECT_BINARY_DIR}/Doxyfile @ONLY)
  add_custom_target(arbiter_reference COMMAND ${ARBITER_DOXYGEN} ${PROJECT_BINARY_DIR}/Doxyfile
    COMMENT "Writing the API reference" VERBATIM)
  if(ARBITER_TESTS)
    add_test(NAME install/reference COMMAND ${ARBITER_DOXYGEN} ${PROJECT_BINARY_DIR}/Doxyfile)
  endif()
endif()
