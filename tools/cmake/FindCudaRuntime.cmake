# Finds the CUDA headers and the static CUDA runtime; nothing else of the toolkit is used, nvcc included.
# CMake's own FindCUDAToolkit needs nvcc, which the redistributable Python wheels do not have, hence this one.
#
# Looks, in this order, below: CUDAToolkit_ROOT (variable, then environment), CUDA_HOME, CUDA_PATH, the wheels that
# tools/setup.sh unpacks into <build>/cuda-wheels, /usr/local/cuda, /usr/local/cuda-*. A version older than asked for is passed over.
# ARBITER_IGNORE_TOOLKIT=ON skips everything but the wheels (to test that they suffice).
#
# Defines CudaRuntime::static, CudaRuntime_ROOT, CudaRuntime_LIBRARY_DIR, CudaRuntime_VERSION.

set(CudaRuntime_WHEELS ${CMAKE_BINARY_DIR}/cuda-wheels/nvidia/cu13)
set(candidates ${CudaRuntime_WHEELS})
if(NOT ARBITER_IGNORE_TOOLKIT)
  file(GLOB versioned LIST_DIRECTORIES true /usr/local/cuda-*)
  list(SORT versioned COMPARE NATURAL ORDER DESCENDING)
  set(candidates ${CUDAToolkit_ROOT} $ENV{CUDAToolkit_ROOT} $ENV{CUDA_HOME} $ENV{CUDA_PATH}
    ${CudaRuntime_WHEELS} /usr/local/cuda ${versioned})
endif()

# Headers and library must come from the same place: a mixture of versions compiles and then misbehaves.
set(CudaRuntime_ROOT "")
set(library_folders lib64 lib targets/x86_64-linux/lib targets/sbsa-linux/lib)
foreach(candidate IN LISTS candidates)
  foreach(folder IN LISTS library_folders)
    if(NOT CudaRuntime_ROOT AND EXISTS ${candidate}/include/cuda_runtime.h
       AND EXISTS ${candidate}/${folder}/libcudart_static.a)
      file(STRINGS ${candidate}/include/cuda_runtime_api.h line REGEX "^#define CUDART_VERSION +[0-9]+")
      string(REGEX REPLACE "[^0-9]+([0-9]+).*" "\\1" number "${line}")
      math(EXPR major "${number} / 1000")
      math(EXPR minor "${number} % 1000 / 10")
      if(NOT ${major}.${minor} VERSION_LESS "${CudaRuntime_FIND_VERSION}")
        set(CudaRuntime_ROOT ${candidate})
        set(CudaRuntime_LIBRARY_DIR ${candidate}/${folder})
        set(CudaRuntime_VERSION ${major}.${minor})
      endif()
    endif()
  endforeach()
endforeach()

list(REMOVE_DUPLICATES candidates)
list(JOIN candidates ", " looked)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CudaRuntime
  REQUIRED_VARS CudaRuntime_ROOT
  VERSION_VAR CudaRuntime_VERSION
  REASON_FAILURE_MESSAGE "no include/cuda_runtime.h with libcudart_static.a beside it in: ${looked}. Install the CUDA toolkit (${CudaRuntime_FIND_VERSION} or newer) and set CUDA_HOME, or run tools/quickstart, which fetches what is needed")

if(CudaRuntime_FOUND AND NOT TARGET CudaRuntime::static)
  find_package(Threads REQUIRED)
  add_library(CudaRuntime::static STATIC IMPORTED)
  set_target_properties(CudaRuntime::static PROPERTIES
    IMPORTED_LOCATION ${CudaRuntime_LIBRARY_DIR}/libcudart_static.a
    INTERFACE_INCLUDE_DIRECTORIES ${CudaRuntime_ROOT}/include)
  target_link_libraries(CudaRuntime::static INTERFACE Threads::Threads ${CMAKE_DL_LIBS} rt)
endif()
