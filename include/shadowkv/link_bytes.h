// What crosses the link between a device's memory and the host's.
#pragma once

#include <cstdint>

namespace shadowkv {

// Bytes of requests' state that crossed the link, by why. The weights cross it once, while they are loaded;
// what a step says and answers (tables, token ids) is a few KiB and not counted.
struct LinkBytes {
  // To the device: values in host memory that steps and prompts attended to. Of a sequence whose values lie
  // in both memories a step's are counted by the share that lies there.
  int64_t read = 0;
  int64_t written = 0;     // to the host: values of new tokens that are kept there
  int64_t moved_up = 0;    // to the device: values that found room, and requests that go on
  int64_t moved_down = 0;  // to the host: values that gave way, and requests that were paused

  LinkBytes& operator+=(const LinkBytes& other);  // the sum of each
  LinkBytes& operator-=(const LinkBytes& other);  // the difference of each
};

inline LinkBytes& LinkBytes::operator+=(const LinkBytes& other) {
  read += other.read;
  written += other.written;
  moved_up += other.moved_up;
  moved_down += other.moved_down;
  return *this;
}

inline LinkBytes& LinkBytes::operator-=(const LinkBytes& other) {
  read -= other.read;
  written -= other.written;
  moved_up -= other.moved_up;
  moved_down -= other.moved_down;
  return *this;
}

}  // namespace shadowkv
