# CUDA is optional at build time and at run time. WEFT_CUDA says whether device
# code is compiled: AUTO (the default) if nvcc is found, ON (an error if not),
# OFF. The runtime is linked statically and the driver is never linked, so one
# program runs on machines with and without a GPU; what it is asked to do on a
# device it refuses there with a sentence. Sets WEFT_WITH_CUDA.
#
# Every leaf `cuda` is a target in both cases: sources of plain C++ are always
# compiled; *.cu and *_device.cc (which include CUDA's headers) only with CUDA,
# *_absent.cc (which refuse) only without: see weft_cuda_leaf.
set(WEFT_CUDA AUTO CACHE STRING "Compile device code: AUTO, ON or OFF")
set_property(CACHE WEFT_CUDA PROPERTY STRINGS AUTO ON OFF)

set(WEFT_WITH_CUDA OFF)
if(WEFT_CUDA STREQUAL "AUTO" AND (WEFT_SANITIZE OR WEFT_FUZZ))
  # nvcc does not hand the sanitizers' options on; host code is what they watch.
  message(STATUS "CUDA: left out of a build with sanitizers")
elseif(WEFT_CUDA)
  find_program(WEFT_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH
               PATHS /usr/local/cuda
                     ${CMAKE_SOURCE_DIR}/.deps/cuda/nvidia/cu13
               PATH_SUFFIXES bin)
  if(WEFT_NVCC)
    set(WEFT_WITH_CUDA ON)
  elseif(NOT WEFT_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "WEFT_CUDA is ${WEFT_CUDA}, but nvcc was found neither on "
                        "PATH nor in /usr/local/cuda/bin; scripts/setup.sh "
                        "installs one")
  else()
    message(STATUS "CUDA: no nvcc, device code is left out")
  endif()
endif()

if(WEFT_WITH_CUDA)
  set(CMAKE_CUDA_COMPILER ${WEFT_NVCC})
  # Machine code for A100 and for H100/H200, and PTX for what comes after.
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
  endif()
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  enable_language(CUDA)
  # CMake 3.25 knows no flag for more than C++17 in CUDA.
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  find_package(CUDAToolkit REQUIRED)
endif()

# weft_cuda_leaf(NAME [DEPS room...]): the target weft_NAME of a folder `cuda`.
# WEFT_WITH_CUDA=1 is defined for who links it if device code was compiled.
function(weft_cuda_leaf name)
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc
       ${CMAKE_CURRENT_SOURCE_DIR}/*.cu)
  list(FILTER sources EXCLUDE REGEX "_(test|fuzz)\\.c[cu]$")
  if(WEFT_WITH_CUDA)
    list(FILTER sources EXCLUDE REGEX "_absent\\.cc$")
  else()
    list(FILTER sources EXCLUDE REGEX "(\\.cu|_device\\.cc)$")
  endif()
  add_library(weft_${name} STATIC ${sources})
  weft_compile_options(weft_${name})
  foreach(dep ${ARG_DEPS})
    target_link_libraries(weft_${name} PUBLIC weft_${dep})
  endforeach()
  if(WEFT_WITH_CUDA)
    # The mark is for the programs: rooms need none.
    target_compile_definitions(weft_${name} INTERFACE WEFT_WITH_CUDA=1)
    target_include_directories(weft_${name} SYSTEM PRIVATE
        ${CUDAToolkit_INCLUDE_DIRS})
    target_link_libraries(weft_${name} PUBLIC CUDA::cudart_static)
  endif()
endfunction()

# weft_gpu_test(TARGET SOURCES file... [LINK library...]): a gtest program that
# needs a device, labelled gpu; where there is none it skips and ctest says so.
function(weft_gpu_test target)
  if(NOT WEFT_BUILD_TESTS OR NOT WEFT_WITH_CUDA)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${target} ${ARG_SOURCES})
  weft_compile_options(${target})
  set_target_properties(${target} PROPERTIES
      RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_include_directories(${target} SYSTEM PRIVATE
      ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(${target} PRIVATE ${ARG_LINK} GTest::gmock GTest::gtest
      GTest::gtest_main ${RAPIDCHECK_LIBRARY})
  add_test(NAME ${target} COMMAND ${target})
  set_tests_properties(${target} PROPERTIES TIMEOUT 1200)
  weft_bundled_test(${target})
endfunction()
