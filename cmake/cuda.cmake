# The CUDA toolkit and how device code is compiled. Included when SHADOWKV_CUDA is on.
set(SHADOWKV_CUDA_ARCHS "80-real;90a-real;90-virtual" CACHE STRING "GPU architectures to compile for")
set(CMAKE_CUDA_ARCHITECTURES ${SHADOWKV_CUDA_ARCHS})

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(SHADOWKV_NVCC nvcc HINTS /usr/local/cuda/bin)
  if(NOT SHADOWKV_NVCC)
    message(FATAL_ERROR "nvcc was found neither in /usr/local/cuda/bin nor in PATH; install CUDA 13, or run "
                        "./run build --cuda, which fetches a toolkit")
  endif()
  set(CMAKE_CUDA_COMPILER ${SHADOWKV_NVCC})
endif()
if(CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()
enable_language(CUDA)
find_package(CUDAToolkit 13 REQUIRED)

# The program loads cuDNN when it runs, where there is one. To build for it, its headers and those of its frontend are
# needed: cudnn.h is in or beside the toolkit, tools/fetch_cudnn_frontend.sh fetches the others.
if(DEFINED ENV{SHADOWKV_CACHE})
  set(cache_folder $ENV{SHADOWKV_CACHE})
elseif(DEFINED ENV{XDG_CACHE_HOME})
  set(cache_folder $ENV{XDG_CACHE_HOME}/shadowkv)
else()
  set(cache_folder $ENV{HOME}/.cache/shadowkv)
endif()
find_path(SHADOWKV_CUDNN_FRONTEND cudnn_frontend.h HINTS ${cache_folder}/cudnn-frontend-1.32.0/include)
find_path(SHADOWKV_CUDNN cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
if(SHADOWKV_CUDNN_FRONTEND AND SHADOWKV_CUDNN)
  message(STATUS "Exact attention of long prompts: cuDNN where a machine has it")
else()
  message(STATUS "Exact attention of long prompts: own kernel, slower than cuDNN's, whose headers were not found")
endif()

# Device code is C++20 like the rest; CMake before 3.26 does not know how to ask nvcc for it.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-lineinfo;-Werror=all-warnings>")

# A binary also runs where the C++ run time is older; cuBLASLt and cuDNN come from the toolkit it was built with, from
# one beside it, or from the usual place.
target_link_options(shadowkv_options INTERFACE -static-libstdc++ -static-libgcc)
set(CMAKE_BUILD_RPATH "${CUDAToolkit_LIBRARY_DIR};/usr/local/cuda/lib64;$ORIGIN/lib")
