# What makes the pinned llama.cpp compile in half the time. tools/llama.sh has its CMake read this.
#
# Most of the time goes into reading the same headers again and into -O3 for code that runs once or
# never. So what is not hot is compiled many files at a time, at -O1 (image and audio code, which
# nothing here calls, at -O0). What computes or runs for each token or request keeps -O3.

# slim(TARGET OPTIMISATION BATCH [APART files...] [HOT files...])
#
# Compiles a target's files BATCH at a time. APART: not together with others. HOT: nor those, and at
# -O3.
function(slim target optimisation batch)
  cmake_parse_arguments(ARG "" "" "APART;HOT" ${ARGN})
  get_target_property(dir ${target} SOURCE_DIR)
  list(TRANSFORM ARG_APART PREPEND ${dir}/)
  list(TRANSFORM ARG_HOT PREPEND ${dir}/)
  target_compile_options(${target} PRIVATE ${optimisation})
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${batch})
  get_target_property(sources ${target} SOURCES)
  list(FILTER sources INCLUDE REGEX "\\.cpp$")
  foreach(source ${sources})
    cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY ${dir} NORMALIZE)
    set(skip OFF)
    if(source IN_LIST ARG_APART)
      set(skip ON)
    elseif(source IN_LIST ARG_HOT)
      set(skip ON)
      set_source_files_properties(${source} TARGET_DIRECTORY ${target}
                                  PROPERTIES COMPILE_OPTIONS -O3)
    endif()
    set_source_files_properties(${source} TARGET_DIRECTORY ${target}
                                PROPERTIES SKIP_UNITY_BUILD_INCLUSION ${skip})
  endforeach()
endfunction()

function(slim_llama_cpp)
  get_target_property(dir ggml-base SOURCE_DIR)
  set_source_files_properties(
    ${dir}/ggml-backend-meta.cpp ${dir}/ggml-opt.cpp ${dir}/gguf.cpp
    TARGET_DIRECTORY ggml-base PROPERTIES COMPILE_OPTIONS -O1)
  slim(llama -O1 18
       APART unicode-data.cpp
       HOT llama-batch.cpp llama-context.cpp llama-grammar.cpp llama-graph.cpp llama-io.cpp
           llama-kv-cache.cpp llama-memory.cpp llama-sampler.cpp llama-vocab.cpp unicode.cpp)
  slim(llama-common -O1 8
       HOT chat-peg-parser.cpp json.cpp jinja/lexer.cpp jinja/parser.cpp jinja/runtime.cpp
           jinja/string.cpp jinja/value.cpp peg-parser.cpp sampling.cpp unicode.cpp)
  slim(server-context -O1 3)
  slim(llama-server-impl -O1 1)
  target_compile_options(cpp-httplib PRIVATE -O1)
  slim(mtmd -O0 24 APART mtmd-helper.cpp mtmd-helper-gen.cpp)
endfunction()
cmake_language(DEFER CALL slim_llama_cpp)
