// libcurl, loaded when the first download begins: a program that never downloads runs where there is none,
// and the machine's own libcurl brings the machine's certificates.
#pragma once

#include <curl/curl.h>

namespace shadowkv {

struct CurlLibrary {
  decltype(&curl_global_init) global_init;
  decltype(&curl_easy_init) easy_init;
  decltype(&curl_easy_setopt) easy_setopt;
  decltype(&curl_easy_perform) easy_perform;
  decltype(&curl_easy_getinfo) easy_getinfo;
  decltype(&curl_easy_reset) easy_reset;
  decltype(&curl_easy_cleanup) easy_cleanup;
  decltype(&curl_easy_strerror) easy_strerror;
  decltype(&curl_slist_append) slist_append;
  decltype(&curl_slist_free_all) slist_free_all;
  decltype(&curl_getdate) getdate;
};

// Throws DeviceFailure where the machine has no libcurl.
[[nodiscard]] const CurlLibrary& curl_library();

}  // namespace shadowkv
