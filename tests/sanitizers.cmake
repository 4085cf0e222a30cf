# What tools/check runs under sanitizers (presets `fuzz` and `tsan`): a selection, since all of it takes half an hour. Left
# out is what starts compilers or tries the same thing thousands of times; the presets `asan` and `tsan` run everything.

# arbiter_sanitized(<label> <test>...): the tests have the label, and a target of that name builds them.
function(arbiter_sanitized label)
  add_custom_target(tests_${label})
  foreach(test ${ARGN})
    string(REPLACE "/" "_" target ${test}_test)
    add_dependencies(tests_${label} ${target})
    set_property(TEST ${test} APPEND PROPERTY LABELS ${label})
  endforeach()
endfunction()

# AddressSanitizer and UndefinedBehaviorSanitizer: what reads files and text, the CPU device, and the
# faults that a group can meet.
arbiter_sanitized(address
  generator/cache generator/cache_security generator/catalogue generator/compile_log generator/expression
  generator/pattern generator/plain_text generator/render generator/render_kernel generator/temporary_folder
  generator/vocabulary
  db/bad_rows db/corruption db/diff db/disk_full db/hostile_files db/json db/jsonl db/merge db/migration db/nccl_choice
  db/reader db/records db/snapshot db/work_database db/writer
  runtime/cpu/device runtime/cpu/early_launch runtime/cpu/image runtime/cpu/kernels runtime/cpu/memory
  runtime/communicator/faults runtime/communicator/nccl_when_needed runtime/communicator/recent_calls
  runtime/communicator/repeated_calls runtime/cuda/faults)

# ThreadSanitizer: ranks that meet and that fail, and the tuner with its threads that compile ahead and
# watch.
arbiter_sanitized(thread
  runtime/bootstrap/bootstrap runtime/bootstrap/id_exchange runtime/bootstrap/job_secret
  tuner/measure/measure tuner/tune/compile_ahead tuner/tune/tune tuner/tune/tune_search
  tuner/verify/device_comparison tuner/verify/verify
  runtime/communicator/faults runtime/communicator/nccl_when_needed runtime/cuda/faults)

# For all tests, so that the preset `tsan` has it too; without ThreadSanitizer nobody reads it.
arbiter_environment_of_all_tests(TSAN_OPTIONS=suppressions=${CMAKE_CURRENT_SOURCE_DIR}/thread_sanitizer.txt)
