# The command line is tested from outside: these tests start the program that people start.
add_library(arbiter_tools_testing STATIC ${CMAKE_CURRENT_LIST_DIR}/run_arbiter.cpp)
target_include_directories(arbiter_tools_testing PUBLIC ${CMAKE_CURRENT_LIST_DIR})
target_compile_definitions(arbiter_tools_testing PRIVATE ARBITER_BINARY="$<TARGET_FILE:arbiter>")
target_link_libraries(arbiter_tools_testing PUBLIC GTest::gtest arbiter::llvm PRIVATE arbiter_test_options)
add_dependencies(arbiter_tools_testing arbiter)

foreach(subject help usage json start completion compile docs end_to_end gpu_workers install run)
  arbiter_add_test(tools/${subject} LINKS arbiter_tools_testing)
endforeach()
target_compile_definitions(tools_install_test PRIVATE ARBITER_CMAKE="${CMAKE_COMMAND}"
  ARBITER_BUILD_FOLDER="${CMAKE_BINARY_DIR}")
target_compile_definitions(tools_docs_test PRIVATE ARBITER_SOURCE_ROOT="${CMAKE_SOURCE_DIR}")
add_dependencies(tools_install_test arbiter_distribution)
set_tests_properties(tools/end_to_end tools/gpu_workers PROPERTIES TIMEOUT 300)

# Its parts.
foreach(subject text table terminal_plot worker_processes nccl_tuner_plugin compile_coverage resource_record tune_isolation tune_plan)
  arbiter_add_test(tools/${subject} LINKS arbiter_cli)
endforeach()
target_include_directories(tools_tune_isolation_test PRIVATE ${CMAKE_SOURCE_DIR}/runtime/src ${CMAKE_SOURCE_DIR}/templates)

# The drop-in library, in front of the stand-in for NCCL.
arbiter_add_test(tools/nccl_drop_in LINKS arbiter_tools_testing arbiter_runtime)
target_compile_definitions(tools_nccl_drop_in_test PRIVATE STAND_IN="$<TARGET_FILE:nccl_stand_in>"
  STAND_IN_NEWER="$<TARGET_FILE:nccl_stand_in_newer>")
add_dependencies(tools_nccl_drop_in_test arbiter_nccl nccl_stand_in nccl_stand_in_newer)
target_compile_definitions(tools_text_test PRIVATE ARBITER_SOURCE_ROOT="${CMAKE_SOURCE_DIR}")

# Databases are made by the tests themselves.
arbiter_add_test(tools/data LINKS arbiter_tools_testing arbiter_db)

add_library(arbiter_example_database STATIC ${CMAKE_CURRENT_LIST_DIR}/example_database.cpp)
target_include_directories(arbiter_example_database PUBLIC ${CMAKE_CURRENT_LIST_DIR} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(arbiter_example_database PRIVATE arbiter_tuner GTest::gtest arbiter_test_options)
foreach(subject doc_blocks first_steps hostile inspect report show two_users)
  arbiter_add_test(tools/${subject} LINKS arbiter_tools_testing arbiter_example_database arbiter_db)
endforeach()
target_link_libraries(tools_hostile_test PRIVATE arbiter::sqlite)
target_include_directories(tools_hostile_test PRIVATE ${CMAKE_SOURCE_DIR}/db/src)
target_compile_definitions(tools_doc_blocks_test PRIVATE ARBITER_SOURCE_ROOT="${CMAKE_SOURCE_DIR}")
target_compile_definitions(tools_first_steps_test PRIVATE ARBITER_SOURCE_ROOT="${CMAKE_SOURCE_DIR}")
set_tests_properties(tools/first_steps PROPERTIES TIMEOUT 300)
arbiter_add_test(tools/catalogue LINKS arbiter_tools_testing arbiter_generator)

# Every algorithm, parameter combination and part compiles for every target or family, and spills only where the record
# says so (docs/cli.md says how to renew it). It compiles with a process for each processor.
add_test(NAME coverage/kernels COMMAND arbiter compile --coverage
  --baseline ${CMAKE_CURRENT_LIST_DIR}/kernel_resources.tsv)
set_tests_properties(coverage/kernels PROPERTIES TIMEOUT 900 PROCESSORS 2
  ENVIRONMENT ARBITER_CACHE_DIR=${ARBITER_TEST_KERNELS})
