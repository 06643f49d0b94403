// How the CPU twins share work among threads.
#pragma once

#include <cstdint>

#include "base/device.h"

namespace shadowkv::cpu {

// Fewer scalar operations (multiply-adds, or numbers moved) than this in all take less time than waking a
// thread.
inline constexpr int64_t kShareableWork = 1 << 16;

// body(i) for i in [0, count), on the queue's threads when the work is worth it. Body must not call this
// again.
template <typename Body>
void share_work(Queue& queue, int64_t count, int64_t work, const Body& body) {
  if (count > 1 && work >= kShareableWork) return queue.device().threads().for_each(count, body);
  for (int64_t i = 0; i < count; ++i) body(i);
}

// body(first, count) over [0, total) in ranges of `grain`.
template <typename Body>
void share_ranges(Queue& queue, int64_t total, int64_t grain, int64_t work, const Body& body) {
  share_work(queue, (total + grain - 1) / grain, work, [&](int64_t i) {
    const int64_t first = i * grain;
    body(first, first + grain < total ? grain : total - first);
  });
}

}  // namespace shadowkv::cpu
