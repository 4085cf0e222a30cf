# The Python package on the CPU device, and its installation. They skip, and say so, where Python has no NumPy or pytest.
add_test(NAME python/tests COMMAND ${CMAKE_CURRENT_LIST_DIR}/run.sh tests $<TARGET_FILE:arbiter_shared>)
add_test(NAME python/install COMMAND ${CMAKE_CURRENT_LIST_DIR}/run.sh install $<TARGET_FILE:arbiter_shared>)
set_tests_properties(python/tests python/install PROPERTIES TIMEOUT 600 SKIP_RETURN_CODE 77)
set_tests_properties(python/tests PROPERTIES ENVIRONMENT ARBITER_CACHE_DIR=${ARBITER_TEST_KERNELS})
