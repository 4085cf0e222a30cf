# What the tests of the installed tree share. Each is run as: cmake -D BUILD=<build> -D SOURCE=<root> -D C_COMPILER=
# -D CXX_COMPILER= -P <test>.cmake. The tree itself is what tree.cmake leaves in ${prefix}.
cmake_minimum_required(VERSION 3.25)
set(work ${BUILD}/installed-test)
set(prefix ${work}/prefix)

# run(<what> <command...>): fails with the output of the command; sets `out`.
function(run what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${what} failed (${code}): ${out}")
  endif()
  message(STATUS "${what}: done")
  set(out "${out}" PARENT_SCOPE)
endfunction()

# library_folder(<prefix>): sets `folder` to where libarbiter.so is.
function(library_folder below)
  file(GLOB library ${below}/lib*/libarbiter.so ${below}/lib/*/libarbiter.so)
  if(NOT library)
    message(FATAL_ERROR "libarbiter.so was not installed below ${below}")
  endif()
  get_filename_component(folder ${library} DIRECTORY)
  set(folder ${folder} PARENT_SCOPE)
endfunction()

# pkg_config(<options...>): sets `flags` to what pkg-config says of the tree in ${folder}.
function(pkg_config)
  find_program(PKG_CONFIG_PROGRAM NAMES pkg-config pkgconf)
  if(NOT PKG_CONFIG_PROGRAM)
    message(FATAL_ERROR "pkg-config was not found; install it (apt-get install pkg-config)")
  endif()
  set(ENV{PKG_CONFIG_PATH} ${folder}/pkgconfig)
  execute_process(COMMAND ${PKG_CONFIG_PROGRAM} ${ARGN} arbiter OUTPUT_VARIABLE flags OUTPUT_STRIP_TRAILING_WHITESPACE
    COMMAND_ERROR_IS_FATAL ANY)
  separate_arguments(flags UNIX_COMMAND "${flags}")
  set(flags ${flags} PARENT_SCOPE)
endfunction()
