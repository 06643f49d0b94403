# The target PCRE2::8BIT; static where there is a choice, so that programs run on machines without the library. Debian's
# package has no CMake files of its own. Installed beside shadowkvConfig.cmake, whose users link to it too.
find_library(PCRE2_LIBRARY NAMES libpcre2-8.a pcre2-8)
find_path(PCRE2_INCLUDE_DIR pcre2.h)
mark_as_advanced(PCRE2_LIBRARY PCRE2_INCLUDE_DIR)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(PCRE2 REQUIRED_VARS PCRE2_LIBRARY PCRE2_INCLUDE_DIR)
if(PCRE2_FOUND AND NOT TARGET PCRE2::8BIT)
  add_library(PCRE2::8BIT UNKNOWN IMPORTED)
  set_target_properties(PCRE2::8BIT PROPERTIES
    IMPORTED_LOCATION "${PCRE2_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${PCRE2_INCLUDE_DIR}")
endif()
