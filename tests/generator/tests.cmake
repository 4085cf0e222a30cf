foreach(subject vocabulary expression catalogue pattern variant render render_kernel fuzz compile_log nvrtc host_compiler cache cache_security temporary_folder plain_text)
  arbiter_add_test(generator/${subject} LINKS arbiter_generator)
  # Parts that have no public header are tested too.
  target_include_directories(generator_${subject}_test PRIVATE ${CMAKE_CURRENT_LIST_DIR}/../../generator/src)
  target_compile_definitions(generator_${subject}_test PRIVATE
    ARBITER_GOLDEN_FOLDER="${CMAKE_CURRENT_LIST_DIR}/golden")
endforeach()
