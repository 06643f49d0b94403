# What cmake --install puts where: the program, the library as one archive of all layers, its headers and what
# find_package(shadowkv) reads.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

list(TRANSFORM SHADOWKV_LAYERS REPLACE "(.+)" "$<TARGET_OBJECTS:shadowkv_\\1>" OUTPUT_VARIABLE objects)
add_library(shadowkv_library STATIC ${objects})
add_library(shadowkv::shadowkv ALIAS shadowkv_library)
set_target_properties(shadowkv_library PROPERTIES OUTPUT_NAME shadowkv EXPORT_NAME shadowkv LINKER_LANGUAGE CXX)
target_compile_features(shadowkv_library INTERFACE cxx_std_20)
target_include_directories(shadowkv_library INTERFACE
  $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(shadowkv_library PRIVATE Threads::Threads PCRE2::8BIT utf8proc::utf8proc OpenSSL::Crypto ${CMAKE_DL_LIBS})
if(SHADOWKV_CUDA)
  target_link_libraries(shadowkv_library PRIVATE CUDA::cudart_static CUDA::cublasLt)
  set_target_properties(shadowkv PROPERTIES
    INSTALL_RPATH "${CUDAToolkit_LIBRARY_DIR};/usr/local/cuda/lib64;$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
endif()

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/shadowkv)
install(TARGETS shadowkv)
install(TARGETS shadowkv_library EXPORT shadowkv)
install(EXPORT shadowkv FILE shadowkvTargets.cmake NAMESPACE shadowkv:: DESTINATION ${package_dir})
install(DIRECTORY include/shadowkv DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES LICENSE NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR})

configure_package_config_file(cmake/shadowkvConfig.cmake.in shadowkvConfig.cmake INSTALL_DESTINATION ${package_dir})
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(shadowkvConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/shadowkvConfig.cmake ${PROJECT_BINARY_DIR}/shadowkvConfigVersion.cmake
              cmake/FindPCRE2.cmake cmake/Findutf8proc.cmake DESTINATION ${package_dir})
