# Private headers of the tuner (float formats, search) and args.h are tested directly.
function(arbiter_add_tuner_test name)
  arbiter_add_test(tuner/${name} ${ARGN} LINKS arbiter_tuner)
  target_include_directories(tuner_${name}_test PRIVATE ${CMAKE_SOURCE_DIR}/tuner/src ${CMAKE_SOURCE_DIR}/templates)
endfunction()

arbiter_add_tuner_test(statistics)
arbiter_add_tuner_test(choose)
arbiter_add_tuner_test(float_formats)
arbiter_add_tuner_test(quantised_formats)
arbiter_add_tuner_test(quantise)
arbiter_add_tuner_test(moe)
arbiter_add_tuner_test(pairwise)
arbiter_add_tuner_test(subgroup)
arbiter_add_tuner_test(search)
arbiter_add_tuner_test(verify)
arbiter_add_tuner_test(measure)
arbiter_add_tuner_test(tune)
arbiter_add_tuner_test(tune_search)
arbiter_add_tuner_test(tune_crash TIMEOUT 600)
arbiter_add_tuner_test(cost_model)
arbiter_add_tuner_test(startup)
arbiter_add_tuner_test(bench)
arbiter_add_tuner_test(conformance TIMEOUT 300)
arbiter_add_tuner_test(inspect)
arbiter_add_tuner_test(nccl_choices)
arbiter_add_tuner_test(recompute)
target_include_directories(tuner_recompute_test PRIVATE ${CMAKE_SOURCE_DIR}/db/src)  # random databases
target_include_directories(tuner_tune_crash_test PRIVATE ${CMAKE_SOURCE_DIR}/db/src)  # integrity_check

# The conformance cases as a user runs them, on the CPU device: everything but the product of the fusion space for 2
# ranks, a selection of every area for more. Kernels stay compiled between runs of the tests.
function(arbiter_add_conformance_test name)
  add_test(NAME conformance/${name} COMMAND arbiter verify --device cpu ${ARGN})
  set_tests_properties(conformance/${name} PROPERTIES TIMEOUT 900
    ENVIRONMENT ARBITER_CACHE_DIR=${CMAKE_BINARY_DIR}/test-kernels)
endfunction()

arbiter_add_conformance_test(ranks_2_full --ranks 2 --full --area plain,tokens,hidden-sizes,sentinel-salt,graphs
  --area grid-changes,numerics,several-communicators)
arbiter_add_conformance_test(ranks_2_fusion --ranks 2 --area fusion,quantisation,group-sizes,moe)
arbiter_add_conformance_test(ranks_3 --ranks 3)
arbiter_add_conformance_test(ranks_4 --ranks 4 --area plain,moe,graphs,several-communicators)
foreach(ranks 5 6 7 8)
  arbiter_add_conformance_test(ranks_${ranks} --ranks ${ranks} --area plain,moe)
endforeach()
arbiter_add_conformance_test(ranks_16 --ranks 16 --area plain)

# Keeps a budget of real seconds to 10%: nothing else may take the processors meanwhile.
set_tests_properties(tuner/tune_search PROPERTIES RUN_SERIAL TRUE)
