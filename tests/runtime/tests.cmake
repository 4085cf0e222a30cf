# Private headers of the runtime, for tests of its inner parts.
set(arbiter_runtime_internals ${CMAKE_SOURCE_DIR}/runtime/src ${CMAKE_SOURCE_DIR}/templates)
foreach(subject geometry candidate_spec candidates call_validation fused_calls fused_communicator fused_kernels layernorm served small_floats dispatch resolve stored_kernels disagreement communicator poison refused_calls)
  arbiter_add_test(runtime/${subject} LINKS arbiter_runtime)
  target_include_directories(runtime_${subject}_test PRIVATE ${arbiter_runtime_internals})
endforeach()

# The CPU device, bootstraps, shared memory, environment.
foreach(subject cpu_kernels cpu_device cpu_early_launch cpu_link cpu_ranks bootstrap environment shared_memory logging)
  arbiter_add_test(runtime/${subject} LINKS arbiter_runtime)
endforeach()
foreach(subject cpu_kernels cpu_device cpu_early_launch cpu_link cpu_ranks)
  target_compile_definitions(runtime_${subject}_test PRIVATE ARBITER_TEMPLATES="${CMAKE_SOURCE_DIR}/templates")
endforeach()
target_include_directories(runtime_logging_test PRIVATE ${CMAKE_SOURCE_DIR}/runtime/src)
arbiter_add_test(runtime/link_protocols LINKS arbiter_runtime TIMEOUT 600)
arbiter_add_test(runtime/link_broken_kernels LINKS arbiter_runtime)
foreach(subject link_shared multicast)
  arbiter_add_test(runtime/${subject} LINKS arbiter_runtime)
  target_include_directories(runtime_${subject}_test PRIVATE ${arbiter_runtime_internals})
endforeach()
arbiter_add_test(runtime/shipped LINKS arbiter_runtime)

# NCCL's tuner plugin, loaded as NCCL loads it.
arbiter_add_test(runtime/nccl_tuner LINKS arbiter_runtime)
target_include_directories(runtime_nccl_tuner_test PRIVATE ${arbiter_runtime_internals} ${CMAKE_SOURCE_DIR}/runtime/nccl_tuner)
target_compile_definitions(runtime_nccl_tuner_test PRIVATE ARBITER_NCCL_TUNER="$<TARGET_FILE:arbiter_nccl_tuner>")
add_dependencies(runtime_nccl_tuner_test arbiter_nccl_tuner)

# CUDA, NCCL, launchers, doctor. Tests that need GPUs skip without them and say how many they need.
foreach(subject launcher_variables id_exchange descriptor_exchange nccl_layout link_class without_cuda cuda_device
        cuda_symmetric cuda_multicast cuda_processes cuda_poison nccl_forced)
  arbiter_add_test(runtime/${subject} LINKS arbiter_runtime arbiter::cudart)
  target_include_directories(runtime_${subject}_test PRIVATE ${arbiter_runtime_internals})
endforeach()
target_compile_definitions(runtime_nccl_forced_test PRIVATE ARBITER_NCCL_TUNER="$<TARGET_FILE:arbiter_nccl_tuner>")
add_dependencies(runtime_nccl_forced_test arbiter_nccl_tuner)

# Its deadlines are a fraction of a second of real time: nothing else may keep the ranks from the processors.
set_tests_properties(runtime/poison PROPERTIES RUN_SERIAL TRUE)
