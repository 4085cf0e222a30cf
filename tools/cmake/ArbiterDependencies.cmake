# Outside libraries, each behind one interface target. All come from Debian 12 packages except the CUDA toolkit.
find_package(Threads REQUIRED)

# LLVM 22 Support: templating (Mustache), JSON, hashing. Linked statically; unused sections are dropped.
find_program(ARBITER_LLVM_CONFIG NAMES llvm-config-22 HINTS /usr/lib/llvm-22/bin)
if(NOT ARBITER_LLVM_CONFIG)
  message(FATAL_ERROR "LLVM 22 was not found. Install it with: apt-get install llvm-22-dev")
endif()
execute_process(COMMAND ${ARBITER_LLVM_CONFIG} --includedir OUTPUT_VARIABLE llvm_include OUTPUT_STRIP_TRAILING_WHITESPACE)
execute_process(COMMAND ${ARBITER_LLVM_CONFIG} --libdir OUTPUT_VARIABLE llvm_lib OUTPUT_STRIP_TRAILING_WHITESPACE)
add_library(arbiter_llvm INTERFACE)
add_library(arbiter::llvm ALIAS arbiter_llvm)
find_library(ARBITER_ZSTD NAMES libzstd.a REQUIRED)
find_library(ARBITER_ZLIB NAMES libz.a REQUIRED)
target_include_directories(arbiter_llvm SYSTEM INTERFACE ${llvm_include})
target_link_libraries(arbiter_llvm INTERFACE ${llvm_lib}/libLLVMSupport.a ${llvm_lib}/libLLVMDemangle.a
  ${ARBITER_ZSTD} ${ARBITER_ZLIB} Threads::Threads ${CMAKE_DL_LIBS})

# Boost: Program_options and Context.
set(Boost_USE_STATIC_LIBS ${ARBITER_PORTABLE})
find_package(Boost 1.74 REQUIRED COMPONENTS program_options context)
add_library(arbiter::boost_program_options ALIAS Boost::program_options)
# Context is static where there is a static library: what is loaded into other programs should bring its own.
find_library(ARBITER_BOOST_CONTEXT NAMES libboost_context.a boost_context REQUIRED)
add_library(arbiter_boost_context INTERFACE)
add_library(arbiter::boost_context ALIAS arbiter_boost_context)
target_link_libraries(arbiter_boost_context INTERFACE ${ARBITER_BOOST_CONTEXT} Boost::headers)

# SQLite. Static where there is a static library: what is loaded into other programs should bring its own.
find_path(ARBITER_SQLITE_INCLUDE sqlite3.h REQUIRED)
if(ARBITER_PORTABLE)
  find_library(ARBITER_SQLITE NAMES libsqlite3.a REQUIRED)
else()
  find_library(ARBITER_SQLITE NAMES libsqlite3.a sqlite3 REQUIRED)
endif()
add_library(arbiter_sqlite INTERFACE)
add_library(arbiter::sqlite ALIAS arbiter_sqlite)
target_include_directories(arbiter_sqlite SYSTEM INTERFACE ${ARBITER_SQLITE_INCLUDE})
target_link_libraries(arbiter_sqlite INTERFACE ${ARBITER_SQLITE} Threads::Threads ${CMAKE_DL_LIBS} m)

# spdlog and fmt: headers only, since Debian has no static libraries of them. Compiling what fmt does takes seconds: one
# source has it for all (generator/src/text/format.cpp), and the one that logs has it too.
# Their folders are read now: the packages' own targets are not known in the folders of a project that takes this one in.
find_package(spdlog REQUIRED)
find_package(fmt REQUIRED)
get_target_property(fmt_include fmt::fmt-header-only INTERFACE_INCLUDE_DIRECTORIES)
get_target_property(spdlog_include spdlog::spdlog_header_only INTERFACE_INCLUDE_DIRECTORIES)
add_library(arbiter_fmt INTERFACE)
add_library(arbiter::fmt ALIAS arbiter_fmt)
target_include_directories(arbiter_fmt SYSTEM INTERFACE ${fmt_include})
add_library(arbiter_logging INTERFACE)
add_library(arbiter::logging ALIAS arbiter_logging)
target_include_directories(arbiter_logging SYSTEM INTERFACE ${spdlog_include})

# CUDA: headers and the static runtime. NVRTC, NCCL and the driver are opened at run time.
find_package(CudaRuntime 12.8 REQUIRED)  # the first with sm_100a
add_library(arbiter_cudart INTERFACE)
add_library(arbiter::cudart ALIAS arbiter_cudart)
target_include_directories(arbiter_cudart SYSTEM INTERFACE ${CudaRuntime_ROOT}/include)
target_link_libraries(arbiter_cudart INTERFACE CudaRuntime::static)
# What a static library must bring along.
set(arbiter_outside_libraries ${llvm_lib}/libLLVMSupport.a ${llvm_lib}/libLLVMDemangle.a ${ARBITER_ZSTD} ${ARBITER_ZLIB}
  ${ARBITER_SQLITE} ${ARBITER_BOOST_CONTEXT} ${CudaRuntime_LIBRARY_DIR}/libcudart_static.a)

# What is inside what is built: COPYRIGHT has a notice for each (a test asks).
set(arbiter_inside ${arbiter_outside_libraries} fmt/format.h spdlog/logger.h libstdc++.a libgcc.a libgcc_eh.a d3.min.js)
if(ARBITER_PORTABLE)
  list(APPEND arbiter_inside libboost_program_options.a)
endif()

# dlopen() searches the run path of the binary: there it finds the NVRTC and the NCCL that belong to these headers,
# without LD_LIBRARY_PATH. A portable binary looks beside itself instead.
if(ARBITER_PORTABLE)
  set(CMAKE_BUILD_RPATH "$ORIGIN" "$ORIGIN/../lib")
else()
  set(CMAKE_BUILD_RPATH ${CudaRuntime_LIBRARY_DIR} ${CMAKE_BINARY_DIR}/cuda-wheels/nvidia/nccl/lib)
endif()
