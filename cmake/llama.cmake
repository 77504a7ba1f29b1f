# Imports llama.cpp as llama::common (libllama, ggml and llama.cpp's common/ helpers).
#
# PENSTOCK_LLAMA_DIR is the folder that tools/llama.sh fills: include/ and lib/. It is named
# explicitly, or taken from what the script prints (it builds the pinned source once and caches it
# outside the tree).

set(PENSTOCK_LLAMA_DIR "" CACHE PATH "llama.cpp as built by tools/llama.sh; empty: ask the script")
if(NOT PENSTOCK_LLAMA_DIR)
  execute_process(COMMAND ${CMAKE_SOURCE_DIR}/tools/llama.sh --print-dir
                  OUTPUT_VARIABLE llama_dir OUTPUT_STRIP_TRAILING_WHITESPACE
                  COMMAND_ERROR_IS_FATAL ANY)
else()
  set(llama_dir ${PENSTOCK_LLAMA_DIR})
endif()
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
             ${CMAKE_SOURCE_DIR}/tools/llama.sh ${CMAKE_SOURCE_DIR}/tools/llama_build.cmake)
if(NOT EXISTS ${llama_dir}/lib/libllama.a)
  message(FATAL_ERROR "llama.cpp is not built in ${llama_dir}: run tools/llama.sh (make does)")
endif()
message(STATUS "llama.cpp: ${llama_dir}")

add_library(llama::common INTERFACE IMPORTED)
target_include_directories(llama::common SYSTEM INTERFACE ${llama_dir}/include)
set(llama_libs "")
foreach(lib llama-common llama-common-base cpp-httplib llama ggml ggml-cpu ggml-base)
  list(APPEND llama_libs ${llama_dir}/lib/lib${lib}.a)
endforeach()
target_link_libraries(llama::common INTERFACE
  -Wl,--start-group ${llama_libs} -Wl,--end-group Threads::Threads ${CMAKE_DL_LIBS})
