# What every target of the project shares: include paths, warnings, sanitizers.
add_library(shadowkv_options INTERFACE)
target_include_directories(shadowkv_options INTERFACE ${CMAKE_SOURCE_DIR}/include ${CMAKE_SOURCE_DIR}/src)
target_compile_options(shadowkv_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Werror>)
target_link_libraries(shadowkv_options INTERFACE Threads::Threads)
if(SHADOWKV_SANITIZE)
  target_compile_options(shadowkv_options INTERFACE
    -fsanitize=${SHADOWKV_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(shadowkv_options INTERFACE -fsanitize=${SHADOWKV_SANITIZE})
endif()
if(SHADOWKV_SANITIZE MATCHES undefined)
  # What the address sanitizer stops at anyway, or what hardly shows at -O1: they would double the time of compiling.
  target_compile_options(shadowkv_options INTERFACE
    -fno-sanitize=null,object-size,vptr,nonnull-attribute,returns-nonnull-attribute)
endif()
if(SHADOWKV_FUZZ)
  target_compile_options(shadowkv_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# shadowkv_layer(NAME SOURCES ... DEPENDS ...): one static library per folder under src/.
function(shadowkv_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(shadowkv_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(shadowkv_${name} PUBLIC shadowkv_options ${ARG_DEPENDS})
endfunction()

# shadowkv_test(NAME SOURCES ... DEPENDS ... [ALONE SUITE]): one GoogleTest program per folder under tests/. ALONE: a
# suite that measures times, beside which no other test runs.
function(shadowkv_test name)
  cmake_parse_arguments(ARG "" "ALONE" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name}_tests ${ARG_SOURCES})
  target_include_directories(${name}_tests PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  target_compile_definitions(${name}_tests PRIVATE SHADOWKV_TEST_DATA="${CMAKE_SOURCE_DIR}/tests/testdata")
  target_link_libraries(${name}_tests PRIVATE ${ARG_DEPENDS} GTest::gmock GTest::gtest_main)
  set(others)
  if(ARG_ALONE)
    gtest_discover_tests(${name}_tests DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
                         TEST_FILTER "${ARG_ALONE}.*" PROPERTIES TIMEOUT 600 RUN_SERIAL ON)
    set(others TEST_FILTER "-${ARG_ALONE}.*")
  endif()
  gtest_discover_tests(${name}_tests DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
                       ${others} PROPERTIES TIMEOUT 600)
endfunction()
