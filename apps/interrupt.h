// Ctrl-C and SIGTERM: the first asks the running command to stop, the second kills the process.
#pragma once

namespace shadowkv::apps {

enum class AfterInterrupt {
  ends,     // what waits for input wakes up
  goes_on,  // output that a signal breaks into is still written; wait for input by wait_for_input()
};
void install_interrupt_handler(AfterInterrupt after = AfterInterrupt::ends);

// Whether Ctrl-C was pressed, or SIGTERM sent.
[[nodiscard]] bool interrupted();
// Whether it was SIGTERM, after which no command goes on.
[[nodiscard]] bool told_to_end();
// Throws Interrupted once it was. Called from every progress and token callback.
void check_interrupted();
// As though it had not been pressed, for a command that goes on; what was typed and not read is gone.
void forget_interrupt();

}  // namespace shadowkv::apps
