# Installs the library into a fresh prefix, moves the prefix, and builds and runs the examples and docs/c.md's program
# against it.
set(work ${BUILD}/installed-test)
file(REMOVE_RECURSE ${work})
file(MAKE_DIRECTORY ${work})

function(run what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${what} failed (${code}): ${out}")
  endif()
  message(STATUS "${what}: done")
endfunction()

run("install" ${CMAKE_COMMAND} --install ${BUILD} --component library --prefix ${work}/first)
file(RENAME ${work}/first ${work}/prefix)
file(GLOB library ${work}/prefix/*/libarbiter.so ${work}/prefix/*/*/libarbiter.so)
if(NOT library)
  message(FATAL_ERROR "libarbiter.so was not installed below ${work}/prefix")
endif()
get_filename_component(folder ${library} DIRECTORY)

# Nothing of the build's place in what is installed.
execute_process(COMMAND readelf -d ${library} OUTPUT_VARIABLE dynamic COMMAND_ERROR_IS_FATAL ANY)
if(NOT dynamic MATCHES "SONAME.*libarbiter\\.so\\.1")
  message(FATAL_ERROR "the library has no SONAME with the ABI version: ${dynamic}")
endif()
string(REGEX MATCH "R(UN)?PATH[^\n]*" run_path "${dynamic}")
string(FIND "${run_path}" "${BUILD}" found)
if(NOT found EQUAL -1)
  message(FATAL_ERROR "the installed library looks into the build folder: ${run_path}")
endif()

run("configuring the examples" ${CMAKE_COMMAND} -S ${SOURCE}/examples -B ${work}/examples
  -DCMAKE_PREFIX_PATH=${work}/prefix -DCMAKE_C_COMPILER=${C_COMPILER} -DCMAKE_CXX_COMPILER=${CXX_COMPILER})
run("building the examples" ${CMAKE_COMMAND} --build ${work}/examples)
run("running the examples" ${CMAKE_CTEST_COMMAND} --test-dir ${work}/examples --output-on-failure --no-tests=error)

# The program of docs/c.md, built with the command that the page gives.
file(READ ${SOURCE}/docs/c.md page)
string(REGEX MATCH "```c\n(/\\* reduce\\.c[^`]*)```" program "${page}")
if(NOT program)
  message(FATAL_ERROR "docs/c.md has no program that begins with '/* reduce.c'")
endif()
set(program "${CMAKE_MATCH_1}")
string(REGEX MATCHALL "\n" lines "${program}")
list(LENGTH lines lines)
if(lines GREATER 60)
  message(FATAL_ERROR "the program of docs/c.md has ${lines} lines; expected 60 at most")
endif()
file(WRITE ${work}/reduce.c "${program}")
find_program(pkg_config NAMES pkg-config pkgconf)
if(NOT pkg_config)
  message(FATAL_ERROR "pkg-config was not found; install it (apt-get install pkg-config)")
endif()
set(ENV{PKG_CONFIG_PATH} ${folder}/pkgconfig)
execute_process(COMMAND ${pkg_config} --cflags --libs arbiter OUTPUT_VARIABLE flags OUTPUT_STRIP_TRAILING_WHITESPACE
  COMMAND_ERROR_IS_FATAL ANY)
separate_arguments(flags UNIX_COMMAND "${flags}")
run("building docs/c.md's program" ${C_COMPILER} -std=c99 -pedantic -Wall -Wextra -Werror ${work}/reduce.c -o
  ${work}/reduce ${flags} -pthread)
set(ENV{LD_LIBRARY_PATH} ${folder})
run("running docs/c.md's program" ${work}/reduce)
