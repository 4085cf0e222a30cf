# Private headers of the tuner, the runtime's inner parts and args.h are tested directly.
function(arbiter_add_tuner_test name)
  arbiter_add_test(tuner/${name} ${ARGN} LINKS arbiter_tuner)
  string(REPLACE "/" "_" target tuner_${name}_test)
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR}/tuner/src ${CMAKE_SOURCE_DIR}/runtime/src
    ${CMAKE_SOURCE_DIR}/templates ${CMAKE_SOURCE_DIR}/db/src)
endfunction()

foreach(subject choose compile_ahead cost_model inspect nccl_choices recompute repeatability search startup tune tune_again tune_search tune_verified wire)
  arbiter_add_tuner_test(tune/${subject})
endforeach()
arbiter_add_tuner_test(tune/tune_crash TIMEOUT 600)
foreach(subject bench measure statistics)
  arbiter_add_tuner_test(measure/${subject})
endforeach()
foreach(subject device_comparison verify)
  arbiter_add_tuner_test(verify/${subject})
endforeach()
arbiter_add_tuner_test(stranger/stranger)
target_compile_definitions(tuner_stranger_stranger_test PRIVATE
  ARBITER_STRANGER="${CMAKE_CURRENT_LIST_DIR}/stranger")
foreach(subject float_formats fp8_transport moe quantise quantised_formats)
  arbiter_add_tuner_test(oracle/${subject})
endforeach()
foreach(subject fp8_transport link_broken_kernels link_shared pairwise subgroup)
  arbiter_add_tuner_test(conformance/${subject})
endforeach()
arbiter_add_tuner_test(conformance/conformance TIMEOUT 300)
arbiter_add_tuner_test(conformance/link_protocols TIMEOUT 600)

# The conformance cases as a user runs them, on the CPU device: everything but the product of the fusion space for 2
# ranks, a selection of every area for more. Kernels stay compiled between runs of the tests.
function(arbiter_add_conformance_test name)
  add_test(NAME conformance/${name} COMMAND arbiter verify --device cpu ${ARGN})
  set_tests_properties(conformance/${name} PROPERTIES TIMEOUT 900
    ENVIRONMENT ARBITER_CACHE_DIR=${ARBITER_TEST_KERNELS})
endfunction()

arbiter_add_conformance_test(ranks_2_full --ranks 2 --full --area plain,tokens,hidden-sizes,sentinel-salt,graphs
  --area grid-changes,numerics,several-communicators)
arbiter_add_conformance_test(ranks_2_fusion --ranks 2 --area fusion,quantisation,group-sizes,moe)
arbiter_add_conformance_test(ranks_3 --ranks 3)
arbiter_add_conformance_test(ranks_4 --ranks 4 --area plain,moe,graphs,several-communicators)
foreach(ranks 5 8)
  arbiter_add_conformance_test(ranks_${ranks} --ranks ${ranks} --area plain,moe)
endforeach()
foreach(ranks 6 7)  # the prologues do not know how many ranks there are
  arbiter_add_conformance_test(ranks_${ranks} --ranks ${ranks} --area plain)
endforeach()
arbiter_add_conformance_test(ranks_16 --ranks 16 --area plain)
