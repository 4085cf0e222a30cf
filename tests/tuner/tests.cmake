# Private headers of the tuner (float formats, search) and args.h are tested directly.
function(arbiter_add_tuner_test name)
  arbiter_add_test(tuner/${name} ${ARGN} LINKS arbiter_tuner)
  target_include_directories(tuner_${name}_test PRIVATE ${CMAKE_SOURCE_DIR}/tuner/src ${CMAKE_SOURCE_DIR}/templates)
endfunction()

arbiter_add_tuner_test(statistics)
arbiter_add_tuner_test(choose)
arbiter_add_tuner_test(float_formats)
arbiter_add_tuner_test(search)
arbiter_add_tuner_test(verify)
arbiter_add_tuner_test(measure)
arbiter_add_tuner_test(tune)
arbiter_add_tuner_test(bench)
arbiter_add_tuner_test(conformance TIMEOUT 300)
arbiter_add_tuner_test(recompute)
target_include_directories(tuner_recompute_test PRIVATE ${CMAKE_SOURCE_DIR}/db/src)  # random databases
