# Private headers of the runtime, for tests of its inner parts.
set(arbiter_runtime_internals ${CMAKE_SOURCE_DIR}/runtime/src ${CMAKE_SOURCE_DIR}/templates)

# arbiter_add_runtime_test(<folder>/<subject> ...): with the private headers, as arbiter_add_test otherwise.
function(arbiter_add_runtime_test name)
  arbiter_add_test(runtime/${name} ${ARGN} LINKS arbiter_runtime arbiter::cudart)
  string(REPLACE "/" "_" target runtime_${name}_test)
  target_include_directories(${target} PRIVATE ${arbiter_runtime_internals})
  target_compile_definitions(${target} PRIVATE ARBITER_TEMPLATES="${CMAKE_SOURCE_DIR}/templates")
endfunction()

foreach(subject call_validation communicator costs deadlines disagreement dispatch faults fused_calls fused_communicator lengths nccl_when_needed policies poison rank_invariance recent_calls refused_calls repeated_calls resolve
        served shipped startup_tune stored_kernels timed_kernels)
  arbiter_add_runtime_test(communicator/${subject})
endforeach()
target_compile_definitions(runtime_communicator_costs_test PRIVATE
  ARBITER_MEASURED="${CMAKE_CURRENT_LIST_DIR}/communicator/measured_h200.tsv"
  ARBITER_MEASURED_CANDIDATES="${CMAKE_CURRENT_LIST_DIR}/communicator/measured_candidates_h200.tsv")
foreach(subject candidates fused_kernels geometry layernorm small_floats spec)
  arbiter_add_runtime_test(candidate/${subject})
endforeach()
foreach(subject device early_launch image kernels link memory ranks)
  arbiter_add_runtime_test(cpu/${subject})
endforeach()
foreach(subject descriptor_exchange multicast shared_memory)
  arbiter_add_runtime_test(memory/${subject})
endforeach()
foreach(subject bootstrap id_exchange job_secret launcher_variables launching_process)
  arbiter_add_runtime_test(bootstrap/${subject})
endforeach()
foreach(subject environment link_class logging)
  arbiter_add_runtime_test(environment/${subject})
endforeach()

# What a profiler sees; where the toolkit has NVTX.
if(EXISTS ${CudaRuntime_ROOT}/include/nvtx3/nvToolsExt.h)
  add_library(profiler_listener MODULE ${CMAKE_CURRENT_SOURCE_DIR}/runtime/environment/profiler_listener.cpp)
  target_link_libraries(profiler_listener PRIVATE arbiter::cudart arbiter_options)
  set_target_properties(profiler_listener PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  arbiter_add_runtime_test(environment/profiler)
  target_compile_definitions(runtime_environment_profiler_test PRIVATE
    ARBITER_LISTENER="$<TARGET_FILE:profiler_listener>")
  add_dependencies(runtime_environment_profiler_test profiler_listener)
endif()

# Tests that need GPUs skip without them and say how many they need. `tests_gpu` builds them, `ctest -L gpu` runs them.
add_custom_target(tests_gpu)
foreach(subject device faults multicast poison processes symmetric without_cuda)
  arbiter_add_runtime_test(cuda/${subject})
  add_dependencies(tests_gpu runtime_cuda_${subject}_test)
  set_property(TEST runtime/cuda/${subject} APPEND PROPERTY LABELS gpu)
endforeach()
set_tests_properties(runtime/cuda/faults PROPERTIES TIMEOUT 600)  # on GPUs: 60 processes, one after the other

# NCCL's tuner plugin, loaded as NCCL loads it.
foreach(subject forced layout tuner_plugin)
  arbiter_add_runtime_test(nccl/${subject})
  target_include_directories(runtime_nccl_${subject}_test PRIVATE ${CMAKE_SOURCE_DIR}/runtime/nccl_tuner)
  target_compile_definitions(runtime_nccl_${subject}_test PRIVATE ARBITER_NCCL_TUNER="$<TARGET_FILE:arbiter_nccl_tuner>")
  add_dependencies(runtime_nccl_${subject}_test arbiter_nccl_tuner)
endforeach()
target_link_libraries(runtime_nccl_tuner_plugin_test PRIVATE arbiter::sqlite)
target_include_directories(runtime_nccl_tuner_plugin_test PRIVATE ${CMAKE_SOURCE_DIR}/db/src)

# NCCL's interface, in front of a stand-in for NCCL that needs no GPU.
add_library(nccl_stand_in SHARED ${CMAKE_CURRENT_SOURCE_DIR}/runtime/nccl_interpose/stand_in.cpp
  ${CMAKE_CURRENT_SOURCE_DIR}/runtime/nccl_interpose/stand_in_rest.cpp)
target_include_directories(nccl_stand_in PRIVATE ${CMAKE_SOURCE_DIR}/runtime/nccl_interpose)
target_link_libraries(nccl_stand_in PRIVATE arbiter_options)
set_target_properties(nccl_stand_in PROPERTIES OUTPUT_NAME nccl SOVERSION 2
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/nccl_stand_in)
add_executable(nccl_preload_program ${CMAKE_CURRENT_SOURCE_DIR}/runtime/nccl_interpose/preload_program.cpp)
target_link_libraries(nccl_preload_program PRIVATE nccl_stand_in arbiter_options ${CMAKE_DL_LIBS})
target_compile_definitions(nccl_preload_program PRIVATE STAND_IN="$<TARGET_FILE:nccl_stand_in>")
set_target_properties(nccl_preload_program PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests
  BUILD_RPATH "$<TARGET_FILE_DIR:nccl_stand_in>")  # not where an NCCL may be
# The same, without what came after NCCL 2.18, and with what is not there yet.
foreach(version older newer)
  set(rest)
  if(version STREQUAL newer)
    set(rest ${CMAKE_CURRENT_SOURCE_DIR}/runtime/nccl_interpose/stand_in_rest.cpp
      ${CMAKE_CURRENT_SOURCE_DIR}/runtime/nccl_interpose/stand_in_newer.cpp)
  endif()
  add_library(nccl_stand_in_${version} SHARED ${CMAKE_CURRENT_SOURCE_DIR}/runtime/nccl_interpose/stand_in.cpp ${rest})
  target_include_directories(nccl_stand_in_${version} PRIVATE ${CMAKE_SOURCE_DIR}/runtime/nccl_interpose)
  target_link_libraries(nccl_stand_in_${version} PRIVATE arbiter_options)
  set_target_properties(nccl_stand_in_${version} PROPERTIES OUTPUT_NAME nccl SOVERSION 2
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/nccl_stand_in_${version})
endforeach()
foreach(subject beside calls preload symbols versions)
  arbiter_add_test(runtime/nccl_interpose/${subject} LINKS ${CMAKE_DL_LIBS})
  set(target runtime_nccl_interpose_${subject}_test)
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR}/runtime/nccl_interpose)
  target_compile_definitions(${target} PRIVATE ARBITER_NCCL="$<TARGET_FILE:arbiter_nccl>"
    STAND_IN="$<TARGET_FILE:nccl_stand_in>" STAND_IN_FOLDER="$<TARGET_FILE_DIR:nccl_stand_in>"
    PROGRAM="$<TARGET_FILE:nccl_preload_program>" STAND_IN_OLDER="$<TARGET_FILE:nccl_stand_in_older>"
    STAND_IN_NEWER="$<TARGET_FILE:nccl_stand_in_newer>")
  add_dependencies(${target} arbiter_nccl nccl_stand_in nccl_stand_in_older nccl_stand_in_newer nccl_preload_program)
endforeach()

target_link_libraries(runtime_nccl_interpose_beside_test PRIVATE arbiter_runtime arbiter::cudart)
target_include_directories(runtime_nccl_interpose_beside_test PRIVATE ${arbiter_runtime_internals})
arbiter_add_runtime_test(bootstrap/nccl)
target_compile_definitions(runtime_bootstrap_nccl_test PRIVATE STAND_IN="$<TARGET_FILE:nccl_stand_in>")
add_dependencies(runtime_bootstrap_nccl_test nccl_stand_in)
arbiter_add_test(runtime/nccl_interpose/stream_order LINKS arbiter_runtime arbiter::cudart
  SOURCES ${CMAKE_SOURCE_DIR}/runtime/nccl_interpose/stream_order.cpp)
target_include_directories(runtime_nccl_interpose_stream_order_test PRIVATE ${CMAKE_SOURCE_DIR}/runtime/nccl_interpose
  ${arbiter_runtime_internals})

# The C interface, from libarbiter.so as a host program has it: without the C++ headers and libraries.
foreach(subject calls errors exports objects)
  arbiter_add_test(runtime/c/${subject} LINKS arbiter_shared)
endforeach()
set_target_properties(runtime_c_calls_test PROPERTIES DISABLE_PRECOMPILE_HEADERS ON)  # three languages
target_sources(runtime_c_calls_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/runtime/c/header_c99.c
  ${CMAKE_CURRENT_SOURCE_DIR}/runtime/c/header_cxx.cpp)
set_source_files_properties(${CMAKE_CURRENT_SOURCE_DIR}/runtime/c/header_c99.c PROPERTIES
  COMPILE_OPTIONS "-std=c99;-pedantic")
set_source_files_properties(${CMAKE_CURRENT_SOURCE_DIR}/runtime/c/header_cxx.cpp PROPERTIES
  COMPILE_OPTIONS "-std=c++98;-pedantic")
target_compile_definitions(runtime_c_exports_test PRIVATE ARBITER_LIBRARY="$<TARGET_FILE:arbiter_shared>"
  ARBITER_HEADER="${CMAKE_SOURCE_DIR}/runtime/include/arbiter.h")

set_property(SOURCE ${CMAKE_CURRENT_SOURCE_DIR}/runtime/c/exports_test.cpp APPEND PROPERTY OBJECT_DEPENDS
  ${CMAKE_SOURCE_DIR}/runtime/include/arbiter.h)

