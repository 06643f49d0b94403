#include "hub/curl_library.h"

#include <dlfcn.h>
#include <fmt/core.h>

#include "shadowkv/error.h"

namespace shadowkv {
namespace {

void* open_library() {
  for (const char* name : {"libcurl.so.4", "libcurl-gnutls.so.4"}) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
  }
  throw DeviceFailure(
      "models cannot be fetched: this machine has no libcurl.so.4; on Debian: apt-get install libcurl4");
}

template <typename Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr)
    throw DeviceFailure(fmt::format("this machine's libcurl has no {}; update it", name));
}

CurlLibrary load() {
  void* library = open_library();  // for as long as the process lives: it holds threads' state of its own
  CurlLibrary curl{};
  find(library, "curl_global_init", curl.global_init);
  find(library, "curl_easy_init", curl.easy_init);
  find(library, "curl_easy_setopt", curl.easy_setopt);
  find(library, "curl_easy_perform", curl.easy_perform);
  find(library, "curl_easy_getinfo", curl.easy_getinfo);
  find(library, "curl_easy_reset", curl.easy_reset);
  find(library, "curl_easy_cleanup", curl.easy_cleanup);
  find(library, "curl_easy_strerror", curl.easy_strerror);
  find(library, "curl_slist_append", curl.slist_append);
  find(library, "curl_slist_free_all", curl.slist_free_all);
  find(library, "curl_getdate", curl.getdate);
  if (curl.global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
    throw DeviceFailure("this machine's libcurl cannot start");
  return curl;
}

}  // namespace

const CurlLibrary& curl_library() {
  static const CurlLibrary curl = load();
  return curl;
}

}  // namespace shadowkv
