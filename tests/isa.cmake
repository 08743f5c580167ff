# Attention and its laws once more with each instruction set. Where the processor lacks one, the first call says so
# and the test counts as skipped.
foreach(isa generic avx2 avx512 avx512bf16 amx)
  foreach(test attention_oracle_test attention_tensors_test laws_groups_test laws_chunking_test laws_threads_test
               laws_future_test laws_nan_test laws_memory_test laws_views_test laws_merge_test
               attention_masks_test attention_scores_test attention_cascade_scores_test laws_scores_test
               layer_linear_test layer_attention_layer_test layer_layer_laws_test)
    add_test(NAME isa/${isa}/${test} COMMAND ${test})
    set_tests_properties(isa/${isa}/${test} PROPERTIES ENVIRONMENT GQA_ISA=${isa} TIMEOUT 300
                         SKIP_REGULAR_EXPRESSION "this processor has no ${isa}")
  endforeach()
endforeach()
