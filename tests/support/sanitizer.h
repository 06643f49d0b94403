// Whether this build runs under a sanitizer, which makes what is tested many times slower.
#pragma once

namespace shadowkv::testing {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool kIsSanitized = true;
#else
inline constexpr bool kIsSanitized = false;
#endif

}  // namespace shadowkv::testing
