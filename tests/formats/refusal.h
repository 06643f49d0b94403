// What a reader answers to a damaged file.
#pragma once

#include <string>

#include "shadowkv/error.h"

namespace shadowkv::testing {

// The message of the InvalidInput that `action` throws; empty when it throws nothing. Other exceptions pass.
template <typename Action>
std::string refusal_of(Action&& action) {
  try {
    action();
  } catch (const InvalidInput& error) {
    return error.what();
  }
  return {};
}

}  // namespace shadowkv::testing
