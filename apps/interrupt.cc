#include "interrupt.h"

#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <csignal>

#include "shadowkv/error.h"

namespace shadowkv::apps {
namespace {

// A signal handler can reach nothing but a global.
std::atomic<int> signal_seen = 0;
static_assert(std::atomic<int>::is_always_lock_free);

extern "C" void on_interrupt(int signal) {
  signal_seen.store(signal);
}

}  // namespace

void install_interrupt_handler(AfterInterrupt after) {
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // the second signal meets the default action
  // Without it a write fails where a signal comes while a terminal is slow, and a stream that failed once
  // writes nothing more.
  if (after == AfterInterrupt::goes_on) action.sa_flags |= SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() {
  return signal_seen.load() != 0;
}

bool told_to_end() {
  return signal_seen.load() == SIGTERM;
}

void check_interrupted() {
  if (interrupted()) throw Interrupted("interrupted");
}

void forget_interrupt() {
  tcflush(STDIN_FILENO,
          TCIFLUSH);  // what was typed, as terminals do unless they keep output (line_reader.cc)
  signal_seen.store(0);
  install_interrupt_handler(AfterInterrupt::goes_on);
}

}  // namespace shadowkv::apps
