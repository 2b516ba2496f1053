# weft_room(NAME [DEPS room...] [LINK foreign...])
#   One static library weft_NAME from every .cc in this folder, tests apart.
#   A leaf such as transport/ucx is a room too: weft_room(transport_ucx ...).
# Tests lie beside what they test: every *_test.cc becomes a gtest program
# NAME_<file>, with main from gtest. weft_room_tests(NAME [DEPS ...]).

set(WEFT_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion
    -Wno-sign-conversion -Werror=return-type -Werror=unused-result)

function(weft_compile_options target)
  target_include_directories(${target} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  target_compile_options(${target} PRIVATE
      "$<$<COMPILE_LANGUAGE:C,CXX>:${WEFT_WARNINGS}>"
      "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>")
endfunction()

if(WEFT_SANITIZE)
  add_compile_options(-fsanitize=${WEFT_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${WEFT_SANITIZE})
endif()

if(WEFT_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

# A program that finds its libraries in ../ucx, where an operator puts another
# UCX, and in ../lib first: see scripts/bundle.sh.
function(weft_portable target)
  set_target_properties(${target} PROPERTIES
      BUILD_RPATH "$ORIGIN/../ucx:$ORIGIN/../lib")
  target_link_options(${target} PRIVATE -Wl,--disable-new-dtags)
endfunction()

# A test that needs a GPU: part of `weft selftest gpu` and of the bundle.
function(weft_bundled_test target)
  weft_portable(${target})
  set_property(GLOBAL APPEND PROPERTY WEFT_GPU_TESTS ${target})
  set_tests_properties(${target} PROPERTIES LABELS gpu
                       SKIP_REGULAR_EXPRESSION "no CUDA device")
endfunction()

function(weft_room name)
  cmake_parse_arguments(ARG "" "" "DEPS;LINK;EXTRA_SOURCES" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  list(FILTER sources EXCLUDE REGEX "_(test|fuzz)\\.cc$")
  list(APPEND sources ${ARG_EXTRA_SOURCES})
  if(sources)
    add_library(weft_${name} STATIC ${sources})
    weft_compile_options(weft_${name})
    set_target_properties(weft_${name} PROPERTIES
        UNITY_BUILD ${WEFT_JOIN_SOURCES})
    set(scope PUBLIC)
  else()
    add_library(weft_${name} INTERFACE)
    target_include_directories(weft_${name} INTERFACE ${CMAKE_SOURCE_DIR}/src)
    set(scope INTERFACE)
  endif()
  foreach(dep ${ARG_DEPS})
    target_link_libraries(weft_${name} ${scope} weft_${dep})
  endforeach()
  if(ARG_LINK)
    target_link_libraries(weft_${name} ${scope} ${ARG_LINK})
  endif()
endfunction()

function(weft_room_tests name)
  if(NOT WEFT_BUILD_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "DEPS;LINK" ${ARGN})
  file(GLOB tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_test.cc)
  foreach(test_source ${tests})
    get_filename_component(stem ${test_source} NAME_WE)
    set(target ${name}_${stem})
    add_executable(${target} ${test_source})
    weft_compile_options(${target})
    set_target_properties(${target} PROPERTIES
        RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    target_link_libraries(${target} PRIVATE weft_${name} GTest::gmock
        GTest::gtest GTest::gtest_main ${RAPIDCHECK_LIBRARY} ${ARG_LINK})
    foreach(dep ${ARG_DEPS})
      target_link_libraries(${target} PRIVATE weft_${dep})
    endforeach()
    add_test(NAME ${target} COMMAND ${target})
    set_tests_properties(${target} PROPERTIES TIMEOUT 1200 LABELS ${name})
  endforeach()
endfunction()

# weft_fuzz_target(NAME room...): fuzz_NAME from NAME_fuzz.cc with libFuzzer,
# only where WEFT_FUZZ is on (clang). All rooms are instrumented then.
function(weft_fuzz_target name)
  if(NOT WEFT_FUZZ)
    return()
  endif()
  add_executable(fuzz_${name} ${name}_fuzz.cc)
  weft_compile_options(fuzz_${name})
  target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  foreach(room ${ARGN})
    target_link_libraries(fuzz_${name} PRIVATE weft_${room})
  endforeach()
endfunction()
