#include "interrupt.h"

#include <atomic>
#include <csignal>

#include "shadowkv/error.h"

namespace shadowkv::apps {
namespace {

// A signal handler can reach nothing but a global.
std::atomic<bool> asked_to_stop = false;
static_assert(std::atomic<bool>::is_always_lock_free);

extern "C" void on_interrupt(int) {
  asked_to_stop.store(true);
}

}  // namespace

void install_interrupt_handler() {
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // the second signal meets the default action
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() {
  return asked_to_stop.load();
}

void check_interrupted() {
  if (asked_to_stop.load()) throw Interrupted("interrupted");
}

}  // namespace shadowkv::apps
